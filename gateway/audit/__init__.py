"""The audit log, which shows tampering."""
