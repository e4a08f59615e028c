"""Rules of services/segments."""
