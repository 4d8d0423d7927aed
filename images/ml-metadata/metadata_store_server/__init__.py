"""ML Metadata's gRPC service on the compiled store that PyPI serves: same flags, same port, same status codes."""
