"""In-memory ports that pass the same conformance suites as the real ones."""
