"""The measuring bench: builds the load rig, starts the servers under test, and compares them in one run."""
