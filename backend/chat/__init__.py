"""`mlx-worker chat`: talk to a model."""
