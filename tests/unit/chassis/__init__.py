"""Rules of services/chassis."""
