"""Whole stories through the outside interface."""
