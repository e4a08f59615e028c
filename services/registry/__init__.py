"""Which agents a town must have, who runs each, and what waits for it."""
