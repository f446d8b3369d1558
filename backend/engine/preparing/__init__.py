"""The prep thread's and the grammar side's part of a load; reaches no MLX."""
