"""The gateway over real HTTP, in front of fake services over real gRPC."""
