"""Users and revocations: the database, and the snapshots that processes hold of it."""
