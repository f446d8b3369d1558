"""One model over several processes: rank 0 is the engine, the others do with their shards what it did with its own.

Importing this package imports neither MLX nor mlx_lm.
"""
