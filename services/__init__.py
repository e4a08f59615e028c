"""Townkeeper: the services and the command, one package each."""
