"""What all connections of a data process share, and who is connected."""
