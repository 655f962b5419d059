"""The home directory on disk, and what an operator does in it."""
