"""What the database knows of vectors: the extension, its table, its indexes."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine

from store import database, documents, search, vectors
from store.documents import Piece, Wanted
from store.search import Asked, Meaning

INDEXES = "select count(*) from pg_indexes where indexname like 'ix\\_chunk\\_vectors\\_%'"
HASH = f"sha256:{'0' * 64}"


def a_document(path: str, embedding: list[float] | None, embedder: str | None = "e") -> Wanted:
    """Returns a document of one piece, whose text is its path."""
    piece = {"position": 0, "heading": "", "start_line": 1, "end_line": 1, "text": path}
    values = {"title": None, "uri": None, "content_hash": HASH, "embedder": embedder}
    return Wanted(path, values, [Piece(piece, embedding)])


async def a_project(sql: asyncpg.Connection) -> UUID:
    """Makes a tenant `acme` with a project, and returns the project's id."""
    await sql.execute("insert into tenants (slug) values ('acme')")
    found: UUID = await sql.fetchval(
        "insert into projects (tenant, name) values ('acme', 'shop') returning id"
    )
    return found


@pytest.fixture
async def bare(postgres: URL) -> AsyncIterator[URL]:
    """Yields a database without any table, as somebody who may not make extensions."""
    admin = await database.connect(postgres)
    await admin.execute("create role plain login")
    await admin.execute("create database t_plain owner plain")
    # Where it is trusted, an owner may make it.
    connection = await database.connect(postgres.set(database="t_plain"))
    await connection.execute("revoke create on database t_plain from plain")
    yield postgres.set(database="t_plain", username="plain")
    await connection.close()
    await admin.execute("drop database t_plain with (force)")
    await admin.execute("drop role plain")
    await admin.close()


async def test_a_database_without_pgvector_takes_documents_and_gets_vectors_later(
    bare: URL, postgres: URL
) -> None:
    owner = await database.connect(postgres.set(database="t_plain"))
    await owner.execute("grant create on schema public to plain")
    sql = await database.connect(bare)
    async with database.opened(bare) as engine:
        await database.upgrade(engine)
        assert await sql.fetchval("select to_regclass('chunk_vectors')") is None
        project = await a_project(sql)
        one = a_document("a", [1.0, 0.0])
        written = await documents.write(engine, "acme", project, [one], None)
        assert written == documents.Written(created=["a"])
        # It is not sent again and again while there is no place for its vectors.
        written = await documents.write(engine, "acme", project, [one], None)
        assert written == documents.Written(unchanged=["a"])
        asked = Asked("acme", "a", 10)
        assert await search.embedder(engine, asked) is None
        found = await search.search(engine, asked, Meaning("e", [1.0, 0.0]))
        assert [hit["by"] for hit in found] == [["word"]]

        await owner.execute("create extension vector")
        await database.upgrade(engine)
        assert await sql.fetchval("select embedder from documents") is None
        written = await documents.write(engine, "acme", project, [one], None)
        assert written == documents.Written(updated=["a"])
        assert await sql.fetchval("select count(*) from chunk_vectors") == 1
        assert await search.embedder(engine, asked) == "e"

        # Whoever drops the extension loses the vectors, and no more.
        await owner.execute("drop extension vector cascade")
        written = await documents.write(engine, "acme", project, [a_document("b", [1.0])], None)
        assert written == documents.Written(created=["b"])
        await owner.execute("create extension vector")
        await database.upgrade(engine)
        written = await documents.write(engine, "acme", project, [one], None)
        assert written == documents.Written(updated=["a"])
        assert await sql.fetchval("select count(*) from chunk_vectors") == 1
    await sql.close()
    await owner.close()


async def test_a_second_upgrade_keeps_the_vectors(
    engine: AsyncEngine, sql: asyncpg.Connection
) -> None:
    project = await a_project(sql)
    await documents.write(engine, "acme", project, [a_document("a", [1.0, 0.0])], None)
    await database.upgrade(engine)
    assert await sql.fetchval("select count(*) from chunk_vectors") == 1
    assert await sql.fetchval("select embedder from documents") == "e"


async def test_a_dimension_gets_its_index_once_more_vectors_than_all_compared_have_it(
    engine: AsyncEngine, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "EXACT", 2)
    project = await a_project(sql)
    for name, expected in (("a", 0), ("b", 0), ("c", 0), ("d", 1)):
        one = a_document(name, [1.0, 0.0])
        await documents.write(engine, "acme", project, [one], None)
        assert await sql.fetchval(INDEXES) == expected


async def test_for_a_project_that_is_not_there_no_index_is_made(
    engine: AsyncEngine, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "EXACT", -1)
    project = await a_project(sql)
    one = a_document("a", [1.0, 0.0])
    assert await documents.write(engine, "acme", UUID(int=1), [one], None) is None
    with pytest.raises(NoResultFound):
        await documents.write(engine, "nobody", project, [one], None)
    assert await sql.fetchval(INDEXES) == 0


async def test_so_many_dimensions_get_an_index_and_others_are_searched_without(
    engine: AsyncEngine, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "EXACT", 0)
    project = await a_project(sql)
    sizes = range(1, vectors.MOST_INDEXES + 3)
    for _ in range(2):
        for size in sizes:
            one = a_document(str(size), [1.0] * size, f"e{size}")
            await documents.write(engine, "acme", project, [one], None)
    assert await sql.fetchval(INDEXES) == vectors.MOST_INDEXES
    for size in (sizes[0], sizes[-1]):
        meaning = Meaning(f"e{size}", [1.0] * size)
        found = await search.search(engine, Asked("acme", "?", 10), meaning)
        assert [hit["text"] for hit in found] == [str(size)]


async def many_chunks(sql: asyncpg.Connection, count: int) -> None:
    """Adds so many chunks, with vectors of three numbers, to the only document."""
    document = await sql.fetchval("select id from documents")
    await sql.execute(
        "insert into chunks (document_id, position, start_line, end_line, text) "
        "select $1, number, 1, 1, number::text from generate_series(1, $2::integer) as number",
        document,
        count,
    )
    await sql.execute(
        "insert into chunk_vectors (chunk_id, embedding) select id, "
        "array[cos(position), sin(position), 1]::vector from chunks where position > 0"
    )
    await sql.execute("update documents set chunks = $1", count + 1)
    await sql.execute("analyze")


@contextmanager
def by_meaning(engine: AsyncEngine) -> Iterator[list[tuple[str, tuple[str, ...]]]]:
    """Yields the searches by meaning that are sent meanwhile, with their values."""
    found: list[tuple[str, tuple[str, ...]]] = []

    def note(connection: Any, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        if "<=>" in statement:
            found.append((statement, tuple(values)))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


@pytest.mark.parametrize("exact", [True, False])
async def test_many_vectors_are_searched_by_their_index_and_few_are_all_compared(
    engine: AsyncEngine, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    project = await a_project(sql)
    await documents.write(engine, "acme", project, [a_document("a", [1.0, 0.0, 0.0])], None)
    await many_chunks(sql, 3000)
    monkeypatch.setattr(search, "EXACT", 3001 if exact else 3000)
    await documents.write(engine, "acme", project, [a_document("a", [1.0, 0.0, 0.0], "e")], None)
    with by_meaning(engine) as sent:
        meaning = Meaning("e", [1.0, 0.0, 1.0])
        found = await search.search(engine, Asked("acme", "?", 50), meaning)
    assert len(found) == 50
    # These are nearly multiples of two pi.
    assert {hit["text"] for hit in found[:4]} == {"710", "1420", "2130", "2840"}
    ((statement, values),) = sent
    plan = "\n".join(row[0] for row in await sql.fetch(f"explain {statement}", *values))
    assert ("Order By:" in plan) != exact, plan


async def test_a_small_tenant_finds_its_own_beside_a_large_one(
    engine: AsyncEngine, sql: asyncpg.Connection
) -> None:
    project = await a_project(sql)
    await documents.write(engine, "acme", project, [a_document("a", [1.0, 0.0, 0.0])], None)
    await many_chunks(sql, 3000)
    await sql.execute("insert into tenants (slug) values ('small')")
    own = await sql.fetchval(
        "insert into projects (tenant, name) values ('small', 'x') returning id"
    )
    # Farther away than all that the other tenant has.
    far = [a_document(name, [-1.0, 0.0, -1.0]) for name in "bc"]
    await documents.write(engine, "small", own, far, None)
    meaning = Meaning("e", [1.0, 0.0, 1.0])
    found = await search.search(engine, Asked("small", "?", 10), meaning)
    assert [hit["text"] for hit in found] == ["b", "c"]
