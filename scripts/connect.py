"""Which database holds the definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.engine import URL

from scripts import session
from store import database
from store.settings import Settings

if TYPE_CHECKING:
    from deployments.gateway import Gateway


async def find(settings: Settings) -> URL:
    """Return the address, asking Prefect only if nothing nearer knows it.

    Raises:
        session.Refused: Nothing knows it, and Prefect does not answer.
        store.database.DatabaseError: Nothing knows it.
    """
    if _is_near(settings):
        return database.url(settings)
    from deployments.block import BLOCK
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
    from deployments import block

    if _is_near(settings):
        return database.url(settings)
    await gateway.version()  # says so if Prefect is away, in the gateway's words
    return await block.find(settings)


def _is_near(settings: Settings) -> bool:
    return bool(settings.database_url or settings.running())
