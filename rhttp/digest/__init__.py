"""HTTP Digest (RFC 7616): the formula, the grammar, and what is remembered of values that repeat."""
