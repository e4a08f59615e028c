"""Fixtures of every suite. What only one suite needs stands in its own conftest."""
