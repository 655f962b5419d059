"""The history of the state's schema: one line of revisions, run by Alembic."""
