"""The engine: admission, scheduling, batched decoding and loading, around the one thread that owns MLX."""
