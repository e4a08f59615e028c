"""The proof. A package, so that tests import their support by full name."""
