"""Search in the chunks of a tenant's documents: by word, by meaning, and by both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    cast,
    column,
    func,
    literal_column,
    select,
    table,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from store import vectors
from store.records import Chunk, Document, Project
from store.writing import reading

K = 60
"""How much a ranking's first places count beyond its later ones: a place counts 1 / (K + place)."""

CANDIDATES = 100
"""So many of each ranking are put together."""

RANKED = 1000
"""So many of the chunks that have the words are ranked; of a long one that takes a while."""

MOST_SECONDS = 3
"""How long the database may search."""

EXACT = 10_000
"""Up to so many vectors are all compared; the index is faster, and may miss some."""

_CANCELED = "57014"

_vectors = table("chunk_vectors", column("chunk_id"), column("embedding"))


class TooMuch(Exception):
    """What is searched for takes the database longer than it may."""


@dataclass(frozen=True)
class Asked:
    """What is searched for, and where.

    Attributes:
        tenant: In whose documents.
        q: Words, phrases in quotes, `or`, and what a dash excludes.
        limit: The most chunks.
        project: In this project's documents; None for all.
    """

    tenant: str
    q: str
    limit: int
    project: UUID | None = None

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """What a document has to be to be searched."""
        found = [Document.tenant == self.tenant]
        return found if self.project is None else [*found, Document.project_id == self.project]


@dataclass(frozen=True)
class Meaning:
    """What is searched for, as a vector.

    Attributes:
        embedder: What made it; only vectors by the same one are near or far.
        vector: The vector.
    """

    embedder: str
    vector: Sequence[float]


async def embedder(engine: AsyncEngine, asked: Asked) -> str | None:
    """Return what made most of the vectors that are to be searched; None if there are none."""
    most = (
        select(Document.embedder)
        .where(*asked.conditions, Document.embedder.is_not(None))
        .group_by(Document.embedder)
        .order_by(func.count().desc(), Document.embedder)
        .limit(1)
    )
    async with reading(engine) as connection:
        if not await vectors.available(connection):
            return None
        return (await connection.execute(most)).scalar_one_or_none()


async def search(
    engine: AsyncEngine, asked: Asked, meaning: Meaning | None = None
) -> list[dict[str, Any]]:
    """Return the chunks that fit best, the best first.

    Each has a `score`, and says in `by` which rankings it stands in: `word`, `meaning`.

    Args:
        engine: The database.
        asked: What is searched for.
        meaning: The same as a vector; None searches by word alone.

    Raises:
        TooMuch: It takes longer than `MOST_SECONDS`.
    """
    try:
        return await _search(engine, asked, meaning)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _CANCELED:
            raise TooMuch from None
        raise


async def _search(
    engine: AsyncEngine, asked: Asked, meaning: Meaning | None
) -> list[dict[str, Any]]:
    async with engine.begin() as connection:
        await connection.execute(text(f"set local statement_timeout = '{MOST_SECONDS}s'"))
        rankings = {"word": await _by_word(connection, asked)}
        if meaning is not None and await vectors.available(connection):
            rankings["meaning"] = await _by_meaning(connection, asked, meaning)
        scores = fuse(rankings.values())
        best = sorted(scores, key=lambda id_: (-scores[id_], id_))[: asked.limit]
        rows = await connection.execute(_shown().where(Chunk.id == func.any(best)))
        found = {row.id: dict(row._mapping) for row in rows}
    return [
        found[id_]
        | {
            "score": scores[id_],
            "by": [name for name, ranking in rankings.items() if id_ in ranking],
        }
        for id_ in best
    ]


def fuse(rankings: Iterable[Sequence[int]]) -> dict[int, float]:
    """Return a score for all that stands in some ranking: reciprocal rank fusion.

    What counts is the place alone, so that rankings of different measures can be put together.
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for place, one in enumerate(ranking, start=1):
            scores[one] = scores.get(one, 0.0) + 1 / (K + place)
    return scores


async def _by_word(connection: AsyncConnection, asked: Asked) -> list[int]:
    query = func.websearch_to_tsquery(literal_column("'simple'::regconfig"), cast(asked.q, Text))
    having = (
        select(Chunk.id, Chunk.words)
        .join(Document, Document.id == Chunk.document_id)
        .where(*asked.conditions, Chunk.words.bool_op("@@")(query))
        .limit(RANKED)
        .subquery()
    )
    found = await connection.execute(
        select(having.c.id)
        .order_by(func.ts_rank_cd(having.c.words, query).desc(), having.c.id)
        .limit(CANDIDATES)
    )
    return list(found.scalars())


async def _by_meaning(connection: AsyncConnection, asked: Asked, meaning: Meaning) -> list[int]:
    size = len(meaning.vector)
    documents = [*asked.conditions, Document.embedder == meaning.embedder]
    near = (
        select(Chunk.id)
        .join(_vectors, _vectors.c.chunk_id == Chunk.id)
        .join(Document, Document.id == Chunk.document_id)
        .where(*documents, text(f"vector_dims(chunk_vectors.embedding) = {size:d}"))
    )
    table_ = "chunk_vectors"
    if await _count(connection, documents) <= EXACT:
        own = near.add_columns(_vectors.c.embedding).cte("own").prefix_with("materialized")
        near, table_ = select(own.c.id), "own"
    else:
        await _widen(connection)
    # As the index has it: the database knows it by its words.
    kind = f"vector({size:d})"
    distance = text(f"({table_}.embedding::{kind}) <=> cast(cast(:near as text) as {kind})")
    found = await connection.execute(
        near.order_by(distance).limit(CANDIDATES), {"near": vectors.written(meaning.vector)}
    )
    return list(found.scalars())


async def _count(connection: AsyncConnection, documents: Sequence[ColumnElement[bool]]) -> int:
    found = await connection.execute(select(func.sum(Document.chunks)).where(*documents))
    return int(found.scalar_one() or 0)


async def _widen(connection: AsyncConnection) -> None:
    """Let the index, which holds the vectors of all tenants, go on until it has found enough."""
    version = await vectors.version(connection) or "0"
    if tuple(int(part) for part in version.split(".")[:2]) >= (0, 8):
        await connection.execute(text("set local hnsw.iterative_scan = strict_order"))
    await connection.execute(text(f"set local hnsw.ef_search = {CANDIDATES}"))


def _shown() -> Select[Any]:
    return (
        select(
            Chunk.id,
            Project.id.label("project"),
            Project.name.label("project_name"),
            Document.id.label("document"),
            Document.path,
            Document.uri,
            Chunk.heading,
            Chunk.start_line,
            Chunk.end_line,
            Chunk.text,
        )
        .join(Document, Document.id == Chunk.document_id)
        .join(Project, Project.id == Document.project_id)
    )
