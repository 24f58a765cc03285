import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from store import database, fleet, letters, records, steps, work
from store.models import Base

MODULES = (fleet, letters, records, steps, work)
"""Whose models are in the metadata too, once they are imported."""


@pytest.fixture
async def empty(postgres: URL) -> AsyncIterator[URL]:
    """Yields the address of a database without any table."""
    admin = await database.connect(postgres)
    await admin.execute("create database t_empty")
    yield postgres.set(database="t_empty")
    await admin.execute("drop database t_empty with (force)")
    await admin.close()


def _differences(connection: Connection) -> list[Any]:
    def compared(thing: Any, name: str | None, kind: str, reflected: bool, other: Any) -> bool:
        # Indexes and checks stand in the migration only; nothing in Python asks for them.
        return not (kind in ("index", "unique_constraint") and reflected and other is None)

    def named(name: str | None, kind: str, parents: Any) -> bool:
        # No migration makes it: it is there where the database has pgvector.
        return name != "chunk_vectors"

    context = MigrationContext.configure(
        connection,
        opts={
            "include_name": named,
            "compare_type": True,
            "compare_server_default": True,
            "include_object": compared,
        },
    )
    return list(compare_metadata(context, Base.metadata))


async def test_the_models_are_what_the_migrations_make(engine):
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


@pytest.mark.parametrize(
    "statement",
    [
        "alter table definitions alter retries set default 3",
        "alter table definitions alter run_count type integer",
        "alter table definitions alter duty drop not null",
        "alter table definitions add column surplus text",
        "alter table tenants drop column title",
    ],
)
async def test_a_model_that_differs_would_be_seen(engine, sql, statement):
    await sql.execute(statement)

    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) != []


async def test_an_empty_database_is_brought_to_the_newest_revision(empty):
    async with database.opened(empty) as engine:
        assert await database.revision(engine) is None

        assert await database.upgrade(engine) is None

        assert await database.revision(engine) == database.newest()


async def test_what_the_first_tables_held_is_kept(empty):
    connection = await database.connect(empty)
    async with database.opened(empty) as engine:
        async with engine.begin() as first:
            await first.run_sync(lambda sync: command.upgrade(database._config(sync), "0001"))
        await connection.execute("insert into tenants (slug) values ('acme')")
        await connection.execute(
            "insert into definitions (tenant, name, duty, cron) values ('acme', 'a', 'd', '@daily')"
        )

        assert await database.upgrade(engine) == "0001"

    row = await connection.fetchrow("select name, cron, inputs, revision from definitions")
    assert tuple(row) == ("a", "@daily", "[]", 1)
    await connection.execute("update definitions set cron = '@hourly'")
    assert await connection.fetchval("select revision from definitions") == 2
    operations = await connection.fetch("select operation from changes where name = 'a'")
    assert [one["operation"] for one in operations] == ["insert", "update"]
    await connection.close()


async def test_a_second_upgrade_changes_nothing(engine, sql):
    await sql.execute("insert into tenants (slug) values ('acme')")

    assert await database.upgrade(engine) == database.newest()

    assert await sql.fetchval("select count(*) from tenants") == 1
    assert await database.revision(engine) == database.newest()


UPGRADE = """
import asyncio, sys
from sqlalchemy.engine import make_url
from store import database

async def main():
    async with database.opened(make_url(sys.argv[1])) as engine:
        print(await database.upgrade(engine))

asyncio.run(main())
"""


async def test_processes_that_upgrade_at_once_do_it_once(empty):
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            UPGRADE,
            empty.render_as_string(hide_password=False),
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]
    answers = [(await process.communicate())[0].decode().strip() for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0]
    # Who comes first finds nothing, and who comes later what the first has made.
    assert sorted(answers) == sorted(["None", database.newest(), database.newest()])


async def test_tables_of_a_newer_version_are_refused(engine, sql):
    await sql.execute("update alembic_version set version_num = '9999'")

    with pytest.raises(database.DatabaseError) as refused:
        await database.upgrade(engine)

    assert str(refused.value) == (
        "The database's tables are of revision 9999, made by a newer Rota than this one (which "
        f"knows up to {database.newest()}). Run that version, or give this one a database of its "
        "own with ROTA_DATABASE_URL or ROTA_HOME."
    )
    assert await sql.fetchval("select version_num from alembic_version") == "9999"


async def test_an_upgrade_that_fails_leaves_nothing_behind(empty):
    connection = await database.connect(empty)
    # The migration makes a table of this name, after others.
    await connection.execute("create table changes (id bigint)")

    async with database.opened(empty) as engine:
        with pytest.raises(sa.exc.ProgrammingError, match='"changes" already exists'):
            await database.upgrade(engine)

    tables = await connection.fetch("select tablename from pg_tables where schemaname = 'public'")
    assert [row["tablename"] for row in tables] == ["changes"]
    await connection.close()


async def test_sessions_speak_utc_whatever_the_servers_zone_is(database_url, sql):
    address = make_url(database_url)
    await sql.execute(f"alter database {address.database} set timezone = 'Asia/Tokyo'")

    async with database.opened(address) as engine, engine.connect() as connection:
        assert await connection.scalar(sa.text("show timezone")) == "UTC"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mysql://localhost/rota", "must be PostgreSQL, not mysql"),
        ("sqlite:///rota.db", "must be PostgreSQL, not sqlite"),
        ("s3cret", "is no database address"),
    ],
)
def test_an_address_of_no_use_is_refused_without_being_repeated(address, said):
    with pytest.raises(database.DatabaseError, match=said) as refused:
        database.parse(address)

    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_is_spoken_to_by_asyncpg(scheme):
    parsed = database.parse(f"{scheme}://someone:word@there:5433/rota")

    assert parsed.drivername == "postgresql+asyncpg"
    assert (parsed.host, parsed.port, parsed.database) == ("there", 5433, "rota")


async def test_a_bare_connection_reaches_the_same_database(database_url):
    connection = await database.connect(make_url(database_url), statement_timeout="5s")

    assert await connection.fetchval("select current_database()") == make_url(database_url).database
    assert await connection.fetchval("show statement_timeout") == "5s"
    await connection.close()


async def test_a_database_that_is_not_there_is_said_so(postgres):
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await database.connect(postgres.set(database="nowhere"))


def test_the_engine_does_not_show_the_password():
    engine: AsyncEngine = database.engine(database.parse("postgresql://me:s3cret@there/rota"))

    assert "s3cret" not in repr(engine)
