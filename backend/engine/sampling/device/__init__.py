"""The draw in lazy MLX operations, for GPUs: the host never waits for a step."""
