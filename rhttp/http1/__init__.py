"""HTTP/1.1 (RFC 9112): heads, content, targets, and both ends of a connection."""
