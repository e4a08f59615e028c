"""The registry: the promises of its store, and every call over a real port."""
