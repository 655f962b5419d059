"""HTTP Digest verification, credentials, principals and policy decisions."""
