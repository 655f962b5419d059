"""What data processes know of each other and pass on."""
