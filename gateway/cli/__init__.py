"""The rhttp-pki command line (click), one module a group of commands."""
