"""The definitions database: PostgreSQL, and what is asked of it."""
