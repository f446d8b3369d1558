"""Token ids to text: bytes, characters, stop strings."""
