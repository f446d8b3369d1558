"""`mlx-worker cache`: a worker's prompt cache, or a directory of one, from a terminal."""
