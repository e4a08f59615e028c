"""Runs the agents of a town in one container: claims, hydrates, starts, saves."""
