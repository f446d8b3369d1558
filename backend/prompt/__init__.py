"""Messages to text to token ids. Kept empty: the render process imports this package and must start fast."""
