"""Rules of services/snapshots."""
