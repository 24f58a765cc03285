"""What commands begin with: the settings, the definitions database, Prefect."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from store.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

    from deployments.gateway import Gateway
    from store.models import Definition


class Refused(Exception):
    """A command cannot do what it is asked; the message is what the user reads."""


def who() -> str:
    """Return how the audit names whoever calls a command."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run as an id that has no name
        name = f"uid {os.getuid()}"
    return f"{name} (cli)"


def prepare() -> Settings:
    """Return the settings, after telling Prefect, which reads its own as it is imported.

    A Prefect that is away is noticed within seconds instead of minutes.
    """
    settings = Settings()
    if "PREFECT_API_URL" not in os.environ and (said := settings.running()):
        os.environ["PREFECT_API_URL"] = said["prefect_api_url"]
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "3")
    os.environ.setdefault("PREFECT_API_REQUEST_TIMEOUT", "20")
    return settings


@asynccontextmanager
async def database(settings: Settings, *, quick: bool = False) -> AsyncIterator[AsyncEngine]:
    """Yield an engine on the definitions database, whose tables are of this version.

    Args:
        settings: They say where it is.
        quick: As `store.database.engine` has it.

    Raises:
        Refused: They are not, or nobody answers.
        sqlalchemy.exc.SQLAlchemyError: The database lets nobody in.
    """
    from store.database import opened

    async with opened(await find(settings), quick=quick) as engine:
        await check_tables(engine)
        yield engine


async def find(settings: Settings) -> URL:
    """Return the database's address, asking Prefect only if nothing nearer knows it.

    Raises:
        Refused: Nothing knows it, and Prefect does not answer.
        store.database.DatabaseError: Nothing knows it.
    """
    import store.database

    if settings.database_url or settings.running():
        return store.database.url(settings)
    from deployments.block import BLOCK
    from deployments.gateway import PrefectUnavailable

    try:
        async with prefect() as gateway:
            return await resolve(settings, gateway)
    except PrefectUnavailable as away:
        try:
            return store.database.url(settings)
        except store.database.DatabaseError:
            raise Refused(
                "ROTA_DATABASE_URL is not set, no `rota up` runs in "
                f"{settings.home.resolve()}, and Prefect cannot be asked for its block "
                f"{BLOCK!r}: {away}"
            ) from away


async def resolve(settings: Settings, gateway: Gateway) -> URL:
    """Return the address that `find` does, if Prefect is there to be asked.

    Raises:
        deployments.gateway.PrefectUnavailable: Prefect is asked, and does not answer.
        store.database.DatabaseError: Nothing knows it.
    """
    from deployments import block

    await gateway.version()  # says so if Prefect is away, in the gateway's words
    return await block.find(settings)


async def check_tables(engine: AsyncEngine) -> None:
    """See that the tables are of this version.

    Raises:
        Refused: They are not, or nobody answers.
    """
    from store.database import newest, revision

    try:
        found, known = await revision(engine), newest()
    except OSError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise Refused(
            f"The definitions database at {where} does not answer ({error or 'in time'})"
        ) from error
    if found is None:
        raise Refused("The database has no tables of Rota yet; make them with `rota db upgrade`.")
    if found != known:
        raise Refused(
            f"The database's tables are of revision {found}, and this Rota is made for {known}; "
            "run `rota db upgrade`, or a newer Rota if that refuses."
        )


@asynccontextmanager
async def prefect() -> AsyncIterator[Gateway]:
    """Yield a gateway to the Prefect server, if anything listens there.

    Raises:
        deployments.gateway.PrefectUnavailable: Nothing does, or no server is named.
    """
    from deployments.gateway import Gateway, PrefectUnavailable

    async with Gateway.connect() as gateway:
        if await _nobody_listens(gateway.address):
            raise PrefectUnavailable(
                f"Prefect at {gateway.address} does not answer; start it with `rota up` or "
                "`rota server`, or set PREFECT_API_URL to where it is"
            )
        yield gateway


async def _nobody_listens(address: str) -> bool:
    # Prefect's client would try for a quarter of a minute. A proxy may know the way all the same.
    if getproxies():
        return False
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, port), 5)
    except TimeoutError:
        return False
    except OSError:
        return True
    writer.close()
    return False


async def definition(engine: AsyncEngine, reference: str) -> Definition:
    """Return the definition that is addressed as `tenant/name`.

    Raises:
        Refused: There is none.
    """
    from store import roster

    found = await roster.find(engine, reference)
    if found is None:
        raise Refused(f"There is no definition {reference!r}{await _like(engine, reference)}")
    return found


async def _like(engine: AsyncEngine, reference: str) -> str:
    from store import roster

    return meant(reference, await roster.references(engine), "`rota list` names them")


def meant(wanted: str, known: list[str], otherwise: str) -> str:
    """Return the end of a sentence that names what was probably meant."""
    import difflib

    if not known:
        return "; there are none yet."
    close = difflib.get_close_matches(wanted, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; {otherwise}."
