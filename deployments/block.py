"""The definitions database, where a Prefect block names it."""

from __future__ import annotations

from sqlalchemy.engine import URL

from store import database
from store.settings import Settings

BLOCK = "rota"
"""The name of the Prefect block of type Async SQLAlchemy Connector."""


async def find(settings: Settings) -> URL:
    """Return the database's address: the setting's or a running `rota up`'s, else the block's.

    What neither names is the embedded server.

    Raises:
        store.database.DatabaseError: It is nowhere, or is none that Rota can use.
    """
    if settings.database_url or settings.running():
        return database.url(settings)
    return await from_block() or database.url(settings)


async def from_block() -> URL | None:
    """Return the address that Prefect's block holds, if there is that block.

    Raises:
        store.database.DatabaseError: It is none that Rota can use.
    """
    from prefect.exceptions import ObjectNotFound
    from prefect_sqlalchemy import AsyncSqlAlchemyConnector

    try:
        block = await AsyncSqlAlchemyConnector.aload(BLOCK)
    except ValueError as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        raise database.DatabaseError(
            f"Prefect's block async-sqlalchemy-connector/{BLOCK} cannot be loaded; save it with "
            "the driver postgresql+asyncpg."
        ) from error
    return database.parse(block._rendered_url.render_as_string(hide_password=False))
