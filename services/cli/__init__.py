"""The `townkeeper` command."""
