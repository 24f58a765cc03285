"""`/tenants/{tenant}/documents`, and those of one project: files that can be searched."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, model_validator
from sqlalchemy.exc import NoResultFound

from api import documents, lists
from api.access import Anybody, Recorder, TenantSlug, no_tenant
from api.paging import Page, Paging
from api.problems import declared, unfit
from api.projects import ID, ProjectId, no_project
from api.state import state_of
from deployments.entry import Strict, Text
from store import documents as rows
from store import projects
from store.records import Document as Row
from store.vectors import MOST_DIMENSIONS

router = APIRouter(prefix="/tenants/{tenant}", tags=["records"])

MOST = 1000
"""Documents in one call."""
MOST_CHUNKS = 5000
"""Of one document."""
MOST_PRESENT = 100_000
LARGEST_FLOAT = 3.4e38
"""Vectors have 32 bits a number."""

HASH = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
URI = "https://github.com/acme/shop/blob/main/README.md"

DocumentPath = Annotated[Text, Field(min_length=1, max_length=1024)]
Number = Annotated[float, Field(ge=-LARGEST_FLOAT, le=LARGEST_FLOAT, allow_inf_nan=False)]
Line = Annotated[int, Field(ge=1, lt=2**31)]


class Chunk(Strict):
    """A piece of a document, as search finds it."""

    position: int = Field(
        ge=0, lt=2**31, description="Its place in the document, from 0", examples=[0]
    )
    heading: Text = Field(
        "", max_length=1024, description="What it stands under", examples=["Install > Docker"]
    )
    start_line: Line = Field(description="The line that it begins in, from 1", examples=[1])
    end_line: Line = Field(description="The line that it ends in", examples=[24])
    text: Text = Field(
        max_length=32768, description="The piece itself", examples=["Run `docker compose up`."]
    )
    embedding: Annotated[list[Number], Field(min_length=1, max_length=MOST_DIMENSIONS)] | None = (
        Field(
            None,
            description="Its vector by the document's embedder, at most 2,000 numbers; or null",
            examples=[[0.12, -0.5, 0.08]],
        )
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end_line < self.start_line:
            raise ValueError(f"end_line: {self.end_line} is before start_line, {self.start_line}")
        return self


class NewDocument(Strict):
    """A document that is to be there."""

    path: DocumentPath = Field(
        description="Where it stands in its project", examples=["docs/install.md"]
    )
    title: Text | None = Field(
        None, max_length=1024, description="For people", examples=["Installation"]
    )
    uri: Text | None = Field(None, max_length=2048, description="Its address", examples=[URI])
    content_hash: str = Field(
        pattern="^sha256:[0-9a-f]{64}$",
        description="`sha256:` and the hash of its content, in hexadecimal digits",
        examples=[HASH],
    )
    embedder: Text | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="What made the vectors; null where there are none",
        examples=["all-MiniLM-L6-v2"],
    )
    chunks: Annotated[list[Chunk], Field(max_length=MOST_CHUNKS)] | None = Field(
        description="What it is divided into, at most 5,000; null for what it is divided into "
        "already, by the same hash and embedder"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        chunks = self.chunks or []
        sizes = {len(one.embedding) for one in chunks if one.embedding is not None}
        if sizes and self.embedder is None:
            raise ValueError("embedder: there are vectors, so say what has made them")
        if len(sizes) > 1:
            raise ValueError(f"chunks: their vectors have {sorted(sizes)} numbers; send one kind")
        positions = [one.position for one in chunks]
        if len(set(positions)) < len(positions):
            raise ValueError("chunks: two have the same position; number them")
        return self


class NewDocuments(Strict):
    """Documents of a project."""

    documents: list[NewDocument] = Field(
        max_length=MOST, description="Those that may have changed; at most 1,000"
    )
    present: list[DocumentPath] | None = Field(
        None,
        max_length=MOST_PRESENT,
        description=(
            "The paths of all that the project has, those of `documents` or not: what is in "
            "neither is deleted. null: nothing is deleted. At most 100,000"
        ),
        examples=[["README.md", "docs/install.md"]],
    )


class WrittenDocuments(BaseModel):
    """What became of each document, by its path."""

    created: list[str] = Field(description="New ones", examples=[["docs/install.md"]])
    updated: list[str] = Field(description="Those that differed", examples=[["README.md"]])
    unchanged: list[str] = Field(description="Those that were so already", examples=[["NEWS.md"]])
    gone: list[str] = Field(description="Those that were deleted", examples=[["docs/old.md"]])


class ProjectDocument(BaseModel):
    """A document, but for its text."""

    id: UUID = Field(description="Its id", examples=[ID])
    project_id: UUID = Field(description="Its project's id", examples=[ID])
    path: str = Field(description="Where it stands in its project", examples=["docs/install.md"])
    title: str | None = Field(description="For people", examples=["Installation"])
    uri: str | None = Field(description="Its address", examples=[URI])
    content_hash: str = Field(description="The hash of its content", examples=[HASH])
    embedder: str | None = Field(
        description="What made its vectors; null where it has none, and where it was written "
        "before the database could hold them",
        examples=["all-MiniLM-L6-v2"],
    )
    bytes: int = Field(description="Its chunks' text as UTF-8, in bytes", examples=[4096])
    chunks: int = Field(description="How many it has", examples=[3])
    created_at: datetime = Field(description="When it was created", examples=[documents.INSTANT])
    updated_at: datetime = Field(
        description="When it was last changed", examples=[documents.INSTANT]
    )


class ProjectDocuments(Page):
    """A part of the documents."""

    items: list[ProjectDocument] = Field(description="The documents, by path")


@router.put(
    "/projects/{project_id}/documents", response_model=WrittenDocuments, responses=declared(404)
)
async def put_documents(
    request: Request,
    tenant: TenantSlug,
    caller: Recorder,
    project_id: ProjectId,
    body: NewDocuments,
) -> Response:
    """Write documents of a project, all of them or none.

    A document whose title, address, hash and embedder are the same is left as it is; of any other
    all chunks are replaced, or kept where `chunks` is null. Where the database has no pgvector,
    vectors are not kept.
    """
    _check_unique([one.path for one in body.documents])
    try:
        written = await rows.write(
            state_of(request).engine, tenant, project_id, list(_wanted(body)), body.present
        )
    except NoResultFound:
        raise no_tenant(tenant) from None
    except rows.ChunksMissing as missing:
        number = [one.path for one in body.documents].index(missing.path)
        raise unfit(f"documents.{number}.chunks: {missing} Send its chunks.") from None
    if written is None:
        raise no_project(project_id)
    return documents.answer(
        {name: getattr(written, name) for name in WrittenDocuments.model_fields}
    )


@router.get(
    "/projects/{project_id}/documents", response_model=ProjectDocuments, responses=declared(404)
)
async def list_project_documents(
    request: Request, tenant: TenantSlug, caller: Anybody, project_id: ProjectId, paging: Paging
) -> Response:
    """List the documents of a project."""
    if await projects.get(state_of(request).engine, tenant, project_id) is None:
        raise no_project(project_id)
    return await _listed(request, tenant, paging, project_id)


@router.get("/documents", response_model=ProjectDocuments, responses=declared(404))
async def list_documents(
    request: Request, tenant: TenantSlug, caller: Anybody, paging: Paging
) -> Response:
    """List the documents of all projects of a tenant."""
    return await _listed(request, tenant, paging)


async def _listed(
    request: Request, tenant: str, paging: Paging, project_id: UUID | None = None
) -> Response:
    wanted = rows.wanted(tenant, project_id)
    return await lists.answer(request, tenant, paging, wanted, (Row.path, Row.id), _shown)


def _wanted(body: NewDocuments) -> Iterator[rows.Wanted]:
    for one in body.documents:
        values = one.model_dump(include={"title", "uri", "content_hash", "embedder"})
        yield rows.Wanted(one.path, values, None if one.chunks is None else _pieces(one.chunks))


def _pieces(chunks: list[Chunk]) -> list[rows.Piece]:
    return [rows.Piece(one.model_dump(exclude={"embedding"}), one.embedding) for one in chunks]


def _shown(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ProjectDocument.model_fields}


def _check_unique(paths: list[str]) -> None:
    first: dict[str, int] = {}
    for number, one in enumerate(paths):
        if one in first:
            raise unfit(
                f"documents.{number}.path: {one[:200]!r} is that of documents.{first[one]} as "
                "well; send each once"
            )
        first[one] = number
