"""Where the definitions database is, and whether its tables are of this version."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import orjson
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from store.embedded import running_url
from store.errors import DatabaseError as DatabaseError
from store.settings import Settings
from store.vectors import ensure_vectors

# Any constant will do, as long as every version of Rota uses the same.
_UPGRADE_LOCK = 0x526F7461_0001


AWAY = (sa.exc.SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What is raised while the database is away: on its way out or in, or not to be reached."""


def url(settings: Settings) -> URL:
    """Return the address of the definitions database, without asking Prefect.

    `ROTA_DATABASE_URL` first, then what a running `rota up` says, then the embedded server.

    Raises:
        DatabaseError: Neither is there.
    """
    if settings.database_url:
        return parse(settings.database_url.get_secret_value())
    if said := settings.running():
        return parse(said["database_url"])
    if found := running_url(settings.pgdata):
        return found
    raise DatabaseError(
        f"No definitions database: ROTA_DATABASE_URL is not set and none runs in "
        f"{settings.home.resolve()}. Start one with scripts/up, or set ROTA_HOME to where it is."
    )


def parse(text: str) -> URL:
    """Return `text` as an address for asyncpg.

    Raises:
        DatabaseError: It is no address, or not one of PostgreSQL.
    """
    try:
        parsed = make_url(text)
    except sa.exc.ArgumentError:
        # The text may hold a password, so it is not repeated.
        raise DatabaseError(
            "ROTA_DATABASE_URL is no database address; write it as "
            "postgresql://user:password@host:5432/database."
        ) from None
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise DatabaseError(
            f"The definitions database must be PostgreSQL, not {parsed.get_backend_name()}."
        )
    query = dict(parsed.query)
    if "sslmode" in query:  # libpq's name of what asyncpg calls ssl, with the same values
        query["ssl"] = query.pop("sslmode")
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def engine(address: URL, *, quick: bool = False) -> AsyncEngine:
    """Return an engine whose sessions speak UTC.

    Args:
        address: The database.
        quick: Do not ask before each use whether a connection still stands, which costs three
            round trips; after the server was away, one use fails, and then all are made anew.
            Beyond 20 users at once, wait for a connection instead of making one for one use.
    """
    return create_async_engine(
        address,
        pool_size=20 if quick else 5,
        max_overflow=0 if quick else 10,
        pool_pre_ping=not quick,
        json_deserializer=orjson.loads,
        hide_parameters=True,  # they hold what a definition's user may think secret
        connect_args={
            "timeout": 10,
            "server_settings": {
                "application_name": application_name(),
                "timezone": "UTC",
                # Whoever waits for a lock holds a connection that others wait for.
                **({"lock_timeout": "4s"} if quick else {}),
            },
        },
    )


def application_name() -> str:
    """Return how the database knows this process, all of its connections alike."""
    return f"rota {os.getpid()} on {socket.gethostname()}"[:63]


async def connect(address: URL, **options: str) -> asyncpg.Connection:
    """Return a bare connection, for what a pool cannot do: listen, and hold a lock.

    A dead machine's connection is noticed within 11 s, so that its lock becomes free.
    """
    query = dict(address.query)
    return await asyncpg.connect(
        host=query.get("host", address.host),
        port=address.port or 5432,
        user=address.username,
        password=str(address.password) if address.password else None,
        database=address.database,
        ssl=query.get("ssl"),
        timeout=10,
        server_settings={
            "application_name": application_name(),
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
            **options,
        },
    )


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def newest() -> str:
    """Return the revision of the tables that this version of Rota knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def _upgrade(connection: Connection) -> str | None:
    connection.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    before = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if before is not None and before not in known:
        raise DatabaseError(
            f"The database's tables are of revision {before}, made by a newer Rota than this one "
            f"(which knows up to {newest()}). Run that version, or give this one a database of "
            "its own with ROTA_DATABASE_URL or ROTA_HOME."
        )
    command.upgrade(_config(connection), "head")
    return before


async def upgrade(connected: AsyncEngine) -> str | None:
    """Bring the tables to this version, once even if several processes try.

    Returns:
        The revision before, None for an empty database.

    Raises:
        DatabaseError: The tables are of a newer version, or the server is older than 14.
    """
    async with connected.begin() as connection:
        version = (await connection.execute(sa.text("show server_version_num"))).scalar_one()
        if int(version) < 140000:
            raise DatabaseError(
                f"The definitions database runs PostgreSQL {int(version) // 10000}; Rota needs 14 "
                "or newer."
            )
        before = await connection.run_sync(_upgrade)
        await ensure_vectors(connection)
        return before


async def revision(connected: AsyncEngine) -> str | None:
    """Return the revision that the database's tables are of, None if it has none."""
    async with connected.connect() as connection:
        return await connection.run_sync(
            lambda sync: MigrationContext.configure(sync).get_current_revision()
        )


@asynccontextmanager
async def opened(address: URL, *, quick: bool = False) -> AsyncIterator[AsyncEngine]:
    """Yield an engine on `address`, and close its connections afterwards."""
    connected = engine(address, quick=quick)
    try:
        yield connected
    finally:
        await connected.dispose()
