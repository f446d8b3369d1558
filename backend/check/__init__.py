"""`mlx-worker check`: whether the worker is right and fast on this machine, beside mlx-lm itself."""
