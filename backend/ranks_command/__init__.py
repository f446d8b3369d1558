"""`mlx-worker ranks`: one worker over several machines, started by `mlx.launch`."""
