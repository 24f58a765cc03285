"""Alembic's scripts for the definitions database."""
