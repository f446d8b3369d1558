"""Guesses at the tokens to come, and how many of them a pass should look at. No MLX here."""
