"""What deploy/ promises, compared with what the services read."""
