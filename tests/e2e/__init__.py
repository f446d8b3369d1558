"""The worker as its hosts know it: a process, a socket, a gRPC client."""
