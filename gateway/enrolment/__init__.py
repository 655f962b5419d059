"""Enrolment: EST (RFC 7030) in a data process, and what it asks the issuer for. It holds no key that signs."""
