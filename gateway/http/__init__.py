"""HTTP as a gateway changes and speaks it (RFC 9110)."""
