"""Generations of each agent's session: taken in, proven, given back."""
