"""The process that owns sockets, keys and state, and keeps data processes alive."""
