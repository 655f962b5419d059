"""The switch of roles on a connection that stays."""
