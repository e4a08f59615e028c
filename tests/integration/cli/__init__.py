"""The command line and what it installs, against real programs."""
