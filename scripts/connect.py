"""Which database holds the definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.engine import URL

from scripts import session
from store import database
from store.settings import Settings

if TYPE_CHECKING:
    from deployments.gateway import Gateway

BLOCK = "rota"
"""The name of the Prefect block of type Async SQLAlchemy Connector."""


async def find(settings: Settings) -> URL:
    """Return the address, asking Prefect only if nothing nearer knows it.

    Raises:
        session.Refused: Nothing knows it, and Prefect does not answer.
        store.database.DatabaseError: Nothing knows it.
    """
    if _is_near(settings):
        return database.url(settings)
    from deployments.gateway import PrefectUnavailable

    try:
        async with session.prefect() as gateway:
            return await resolve(settings, gateway)
    except PrefectUnavailable as away:
        try:
            return database.url(settings)
        except database.DatabaseError:
            raise session.Refused(
                "ROTA_DATABASE_URL is not set, no `rota up` runs in "
                f"{settings.home.resolve()}, and Prefect cannot be asked for its block "
                f"{BLOCK!r}: {away}"
            ) from away


async def resolve(settings: Settings, gateway: Gateway) -> URL:
    """Return the address: the setting's, a running `rota up`'s, the block's, the embedded one's.

    Raises:
        deployments.gateway.PrefectUnavailable: Prefect is asked, and does not answer.
        store.database.DatabaseError: Nothing knows it.
    """
    if _is_near(settings):
        return database.url(settings)
    await gateway.version()  # says so if Prefect is away, in the gateway's words
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


def _is_near(settings: Settings) -> bool:
    return bool(settings.database_url or settings.running())
