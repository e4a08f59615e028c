"""Several real processes on loopback."""
