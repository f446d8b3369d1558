"""Keys and values as codes of a few bits, for rows and for batches of them."""
