"""The gRPC side: server, services, status codes, authentication. The only package that knows grpc."""
