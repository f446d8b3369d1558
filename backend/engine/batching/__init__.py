"""Engine thread: one loaded model's requests, from admission to their ends."""
