"""One request between two ends, and the connections to masters."""
