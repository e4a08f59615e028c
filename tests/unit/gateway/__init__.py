"""Rules of services/gateway."""
