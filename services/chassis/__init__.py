"""What every process is bolted to; it knows no service."""
