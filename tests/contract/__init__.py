"""Each service over a real port: codes, reasons, frames."""
