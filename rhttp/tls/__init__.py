"""Bytes on a non-blocking socket, in the clear or by TLS."""
