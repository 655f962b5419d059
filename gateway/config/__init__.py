"""``gateway.toml``, read and checked as a whole: one immutable `Config`, or every problem at once."""
