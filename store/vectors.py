"""The vectors of chunks, where the database has pgvector; without it there are none.

What needs the extension stands in one table that no migration makes, so that a database can get
the extension at any time: the next `upgrade` then makes the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

MOST_DIMENSIONS = 2000
"""pgvector's index takes no more."""
MOST_INDEXES = 16
"""Vectors of further dimensions are searched without an index."""

_INDEX_LOCK = 0x526F7461_0002

_EXTENSION = text("""
do $$ begin
    if exists (select from pg_available_extensions where name = 'vector') then
        create extension if not exists vector;
    end if;
exception when insufficient_privilege then
    raise notice 'vector: % Search goes by word alone.', sqlerrm;
end $$
""")
_VERSION = text("select extversion from pg_extension where extname = 'vector'")
# The extension takes the column along when it is dropped.
_THERE = text("""
select exists (select from pg_attribute
    where attrelid = to_regclass('chunk_vectors') and attname = 'embedding' and not attisdropped)
""")
_TABLE = (
    "drop table if exists chunk_vectors",
    """
    create table chunk_vectors (
        chunk_id bigint primary key references chunks (id) on delete cascade,
        embedding vector not null
    )
    """,
    # Or the planner takes it that hardly any vector has the dimension that is asked for.
    "create statistics chunk_vectors_dimensions on vector_dims(embedding) from chunk_vectors",
    # They were written without their vectors, and are sent again by whoever embeds them.
    "update documents set embedder = null where embedder is not null",
)
_INDEXES = text(
    "select indexname from pg_indexes where tablename = 'chunk_vectors' "
    "and schemaname = current_schema() and indexname like 'ix\\_chunk\\_vectors\\_%'"
)
_MORE = text("""
select count(*) > cast(:exact as bigint) from (
    select from chunk_vectors where vector_dims(embedding) = :size
    limit cast(:exact as bigint) + 1) as counted
""")
_INSERT = text("""
insert into chunk_vectors (chunk_id, embedding)
select chunk_id, embedding::vector
from unnest(cast(:ids as bigint[]), cast(:embeddings as text[])) as one (chunk_id, embedding)
""")


async def ensure_vectors(connection: AsyncConnection) -> bool:
    """Make the extension, if the database can, and the table of vectors; return if it is there.

    Documents that were written without it forget their embedder, so that they are sent again.
    """
    await connection.execute(_EXTENSION)
    if await version(connection) is None:
        return False
    if not await available(connection):
        for statement in _TABLE:
            await connection.execute(text(statement))
    return True


async def version(connection: AsyncConnection) -> str | None:
    """Return the version of pgvector that the database has; None without it."""
    return (await connection.execute(_VERSION)).scalar_one_or_none()


async def available(connection: AsyncConnection | AsyncSession) -> bool:
    """Tell whether there is a table of vectors."""
    return bool((await connection.execute(_THERE)).scalar_one())


async def prepare(engine: AsyncEngine, dimensions: set[int], exact: int) -> None:
    """Make the indexes for vectors of these dimensions that are needed and not there yet.

    By itself, before any row is written: an index waits for all who write the table.

    Args:
        engine: The database.
        dimensions: How many numbers the vectors have.
        exact: An index is needed once there are more vectors of its dimension than this.
    """
    async with engine.begin() as connection:
        if not await available(connection):
            return
        needed = {
            one
            for one in await _missing(connection, dimensions)
            if (await connection.execute(_MORE, {"size": one, "exact": exact})).scalar_one()
        }
        if not needed:
            return
        await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _INDEX_LOCK})
        for one in sorted(await _missing(connection, needed)):
            await connection.execute(
                text(
                    f"create index ix_chunk_vectors_{one:d} on chunk_vectors using hnsw "
                    f"((embedding::vector({one:d})) vector_cosine_ops) "
                    f"where vector_dims(embedding) = {one:d}"
                )
            )


async def _missing(connection: AsyncConnection, dimensions: set[int]) -> list[int]:
    names = set((await connection.execute(_INDEXES)).scalars())
    missing = [one for one in dimensions if f"ix_chunk_vectors_{one}" not in names]
    return missing[: max(0, MOST_INDEXES - len(names))]


async def write(session: AsyncSession, vectors: Mapping[int, Sequence[float]]) -> None:
    """Write vectors by the ids of their new chunks, where there is a table of them."""
    if vectors and await available(session):
        embeddings = [written(one) for one in vectors.values()]
        await session.execute(_INSERT, {"ids": list(vectors), "embeddings": embeddings})


def written(vector: Sequence[float]) -> str:
    """Return a vector as pgvector reads it."""
    return orjson.dumps(list(vector)).decode()
