"""Listeners, and what arrives on them."""
