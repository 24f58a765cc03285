"""What the store raises of itself."""


class DatabaseError(Exception):
    """The definitions database is not as it must be; the message says what to do."""
