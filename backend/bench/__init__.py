"""`mlx-worker bench`: a worker under load, alone or beside another server."""
