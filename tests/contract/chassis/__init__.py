"""What every service has around its handlers, over a real port."""
