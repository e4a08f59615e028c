"""HTTP in, gRPC out; keeps nothing and decides nothing."""
