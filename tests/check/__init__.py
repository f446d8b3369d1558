"""`mlx-worker check`."""
