"""Rules of services/cli."""
