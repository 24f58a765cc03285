"""`rota db`: the definitions database itself."""

from __future__ import annotations

import os
import shutil

from sqlalchemy.engine import URL

from scripts import session, show
from scripts.session import Refused
from store import database
from store.settings import Settings


async def upgrade(settings: Settings) -> int:
    """Bring the tables to this version."""
    address = await session.find(settings)
    async with database.opened(address) as engine:
        try:
            before = await database.upgrade(engine)
        except OSError as error:
            raise Refused(f"The database at {_shown(address)} does not answer: {error}") from error
    now = database.newest()
    show.line(
        f"The tables are of revision {now} already."
        if before == now
        else f"The tables are of revision {now} now; before: {before or 'none'}."
    )
    return 0


async def url(settings: Settings, show_password: bool) -> int:
    """Print the database's address as psql takes it."""
    show.line(_shown(await session.find(settings), show_password))
    return 0


async def shell(settings: Settings, arguments: list[str]) -> int:
    """Become psql; the password, if there is one, is not for everyone to see."""
    address = libpq(await session.find(settings))
    if address.password:
        os.environ["PGPASSWORD"] = str(address.password)
    without_password = URL.create(
        address.drivername,
        address.username,
        None,
        address.host,
        address.port,
        address.database,
        address.query,
    )
    program = _psql()
    os.execv(  # noqa: S606
        program, [program, _shown(without_password, True), *arguments]
    )


def libpq(address: URL) -> URL:
    """Return an address of asyncpg's as libpq has it."""
    query = dict(address.query)
    if mode := query.pop("ssl", None):
        query["sslmode"] = mode
    return address.set(drivername="postgresql", query=query)


def _psql() -> str:
    from store.embedded import BIN

    program = shutil.which("psql") or shutil.which("psql", path=str(BIN))
    if program is None:
        raise Refused("There is no psql on the PATH; install PostgreSQL's client.")
    return program


def _shown(address: URL, show_password: bool = False) -> str:
    return libpq(address).render_as_string(hide_password=not show_password)
