"""What supervisor and data process exchange."""
