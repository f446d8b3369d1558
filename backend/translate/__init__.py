"""Between the wire and the vocabulary in `backend.core`: pure functions, no grpc and no MLX."""
