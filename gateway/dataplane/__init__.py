"""One data process, from its arguments to its end."""
