"""Every model module of mlx-lm, each as a small model with random weights, through the whole engine."""
