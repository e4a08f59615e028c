"""Rules of services/supervisor."""
