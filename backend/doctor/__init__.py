"""`mlx-worker doctor`: what is wrong here, before a worker finds it out."""
