"""`mlx-worker check`: whether the worker is right and fast on this machine, with a model of its user's or a random one."""
