"""The tables of what duties learn: projects, documents, chunks, checkpoints, times of lists.

The vectors of chunks stand in a table of their own, which is there where pgvector is: `vectors`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from store.models import Base


class Project(Base, kw_only=True):
    """A repository of a tenant's, and what its files say of it.

    `missed_in` names the sweeps that have counted it as missing, as far as they have names. One
    that is `archived` and has `missing_cycles` was archived because it is gone, one that is
    `archived_by_source` because it is archived there, and any other by somebody.
    """

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("tenant", "id", name="id: unique in its tenant"),)

    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"), default=None
    )
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.slug", ondelete="CASCADE"))
    source: Mapped[str] = mapped_column(server_default=text("'manual'"), default="manual")
    repository_id: Mapped[int | None] = mapped_column(BigInteger, default=None)
    name: Mapped[str]
    full_name: Mapped[str | None] = mapped_column(default=None)
    description: Mapped[str | None] = mapped_column(default=None)
    topics: Mapped[list[str]] = mapped_column(server_default=text("'{}'"), default_factory=list)
    default_branch: Mapped[str | None] = mapped_column(default=None)
    visibility: Mapped[str | None] = mapped_column(default=None)
    archived: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    pushed_at: Mapped[datetime | None] = mapped_column(default=None)
    url: Mapped[str | None] = mapped_column(default=None)

    status: Mapped[str] = mapped_column(server_default=text("'active'"), default="active")
    missing_cycles: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)
    missed_in: Mapped[list[str]] = mapped_column(server_default=text("'{}'"), default_factory=list)
    archived_by_source: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    content_pushed_at: Mapped[datetime | None] = mapped_column(default=None)
    # Or the absence of one would be the JSON null.
    spec: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True), default=None)
    spec_problem: Mapped[str | None] = mapped_column(default=None)
    summary: Mapped[str | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    last_seen_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)


class Checkpoint(Base, kw_only=True):
    """What a duty wants to know at its next run."""

    __tablename__ = "checkpoints"

    tenant: Mapped[str] = mapped_column(
        ForeignKey("tenants.slug", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any] = mapped_column(JSONB)
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)


class Listing(Base, kw_only=True):
    """When the newest list of a source was asked for, of those that have been written.

    Its `kind` is `servers` or `projects`, its `source` a provider of servers or a source of
    projects.
    """

    __tablename__ = "listings"

    tenant: Mapped[str] = mapped_column(
        ForeignKey("tenants.slug", ondelete="CASCADE"), primary_key=True
    )
    kind: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    listed_at: Mapped[datetime]


class Document(Base, kw_only=True):
    """A file of a project's that can be searched, but for its text, which its chunks hold.

    `embedder` is what its chunks' vectors are made by; `bytes` and `chunks` count their text.
    """

    __tablename__ = "documents"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant", "project_id"], ["projects.tenant", "projects.id"], ondelete="CASCADE"
        ),
    )

    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"), default=None
    )
    tenant: Mapped[str]
    project_id: Mapped[UUID]
    path: Mapped[str]
    title: Mapped[str | None] = mapped_column(default=None)
    uri: Mapped[str | None] = mapped_column(default=None)
    content_hash: Mapped[str]
    embedder: Mapped[str | None] = mapped_column(default=None)
    bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), default=0)
    chunks: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)


class Chunk(Base, kw_only=True):
    """A piece of a document, as search finds it; lines are counted from 1."""

    __tablename__ = "chunks"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True, init=False)
    document_id: Mapped[UUID] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"))
    position: Mapped[int] = mapped_column(Integer)
    heading: Mapped[str] = mapped_column(server_default=text("''"), default="")
    start_line: Mapped[int] = mapped_column(Integer)
    end_line: Mapped[int] = mapped_column(Integer)
    text: Mapped[str]
    words: Mapped[Any] = mapped_column(
        TSVECTOR,
        Computed(
            "setweight(to_tsvector('simple'::regconfig, heading), 'A'::\"char\") "
            "|| to_tsvector('simple'::regconfig, text)",
            persisted=True,
        ),
        init=False,
        deferred=True,
    )
