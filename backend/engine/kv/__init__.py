"""Keys and values of rows that decode together, each of its own length."""
