"""The documents of projects: written whole, with their chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Select, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store import projects, search, vectors
from store.recording import recording
from store.records import Chunk, Document, Project

_OF_CHUNKS = ("content_hash", "embedder")
_COMPARED = ("title", "uri", *_OF_CHUNKS)


class ChunksMissing(Exception):
    """A document was to keep its chunks, and has none of this hash and embedder.

    Attributes:
        path: Where it stands in its project.
    """

    def __init__(self, path: str) -> None:
        super().__init__(f"{path!r} has no chunks of this content_hash and embedder.")
        self.path = path


@dataclass(frozen=True)
class Piece:
    """One chunk of a document that is to be written.

    Attributes:
        values: The columns of a `Chunk`, but for its document.
        embedding: Its vector; None for none.
    """

    values: Mapping[str, Any]
    embedding: Sequence[float] | None = None


@dataclass(frozen=True)
class Wanted:
    """A document that is to be written.

    Attributes:
        path: Where it stands in its project.
        values: Its title, uri, content_hash and embedder.
        pieces: Its chunks; None for those that it has.
    """

    path: str
    values: Mapping[str, Any]
    pieces: Sequence[Piece] | None


@dataclass
class Written:
    """What became of each document, by its path."""

    created: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


async def write(
    engine: AsyncEngine,
    tenant: str,
    project_id: UUID,
    documents: Sequence[Wanted],
    present: Sequence[str] | None,
) -> Written | None:
    """Write documents of a project, all of them or none.

    A document whose title, address, hash and embedder are the same is left as it is.

    Args:
        engine: The database.
        tenant: Whose project it is.
        project_id: The project.
        documents: What is to be there.
        present: The paths of all that is there beside `documents`; what is not is deleted. None
            deletes nothing.

    Returns:
        What became of each; None if the tenant has no such project.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
        ChunksMissing: A document was to keep its chunks, and has others or none.
    """
    pieces = [piece for one in documents for piece in one.pieces or ()]
    dimensions = {len(one.embedding) for one in pieces if one.embedding}
    if dimensions and await projects.get(engine, tenant, project_id) is not None:
        await vectors.prepare(engine, dimensions, search.EXACT)
    written = Written()
    async with recording(engine, tenant, "documents") as session:
        if not await _holds(session, tenant, project_id):
            return None
        paths = [one.path for one in documents]
        if present is not None:
            gone = delete(Document).where(
                Document.project_id == project_id, Document.path != func.all([*present, *paths])
            )
            written.gone = sorted(await session.scalars(gone.returning(Document.path)))
        rows = await session.scalars(
            select(Document)
            .where(Document.project_id == project_id, Document.path == func.any(paths))
            .order_by(Document.id)
            .with_for_update()
        )
        there = {row.path: row for row in rows}
        for one in documents:
            row = there.get(one.path)
            if one.pieces is None and (row is None or _differs(row, one, _OF_CHUNKS)):
                raise ChunksMissing(one.path)
            if row is None:
                written.created.append(one.path)
            elif _differs(row, one, _COMPARED):
                written.updated.append(one.path)
            else:
                written.unchanged.append(one.path)
        unchanged = set(written.unchanged)
        changed = [one for one in documents if one.path not in unchanged]
        await _replace(session, tenant, project_id, there, changed)
    return written


def _differs(row: Document, one: Wanted, names: Sequence[str]) -> bool:
    return any(getattr(row, name) != one.values[name] for name in names)


async def _holds(session: AsyncSession, tenant: str, project_id: UUID) -> bool:
    found = select(Project.id).where(Project.tenant == tenant, Project.id == project_id)
    return await session.scalar(found.with_for_update(read=True, key_share=True)) is not None


async def _replace(
    session: AsyncSession,
    tenant: str,
    project_id: UUID,
    there: Mapping[str, Document],
    documents: Sequence[Wanted],
) -> None:
    ids: dict[str, UUID] = {}
    for one in documents:
        row = there.get(one.path)
        if row is None:
            row = Document(
                id=uuid4(), tenant=tenant, project_id=project_id, path=one.path, content_hash=""
            )
            session.add(row)
        for name, value in one.values.items():
            setattr(row, name, value)
        row.updated_at = func.now()
        if one.pieces is not None:
            row.bytes = sum(len(piece.values["text"].encode()) for piece in one.pieces)
            row.chunks = len(one.pieces)
            ids[one.path] = row.id
    await session.flush()
    await session.execute(delete(Chunk).where(Chunk.document_id == func.any(list(ids.values()))))
    pieces = {
        (ids[one.path], piece.values["position"]): piece
        for one in documents
        for piece in one.pieces or ()
    }
    if not pieces:
        return
    made = await session.execute(
        insert(Chunk).returning(Chunk.id, Chunk.document_id, Chunk.position),
        [{"document_id": id_, **piece.values} for (id_, _), piece in pieces.items()],
    )
    embedded = {id_: pieces[document_id, position].embedding for id_, document_id, position in made}
    await vectors.write(session, {id_: one for id_, one in embedded.items() if one})


def wanted(tenant: str, project_id: UUID | None = None) -> Select[tuple[Document]]:
    """Return the list of a tenant's documents, or of one project's."""
    rows = select(Document).where(Document.tenant == tenant)
    return rows if project_id is None else rows.where(Document.project_id == project_id)
