"""Rules of services/registry."""
