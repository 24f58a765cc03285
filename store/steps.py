"""The tables of actions: graphs of steps, templates of steps, and what runs of them have done."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, ForeignKeyConstraint, Integer, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from store.models import Base

_TENANT = "tenants.slug"


class Action(Base, kw_only=True):
    """A graph of steps, as its user wrote it."""

    __tablename__ = "actions"
    __table_args__ = (UniqueConstraint("tenant", "name", name="name: unique among actions"),)

    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"), default=None
    )
    tenant: Mapped[str] = mapped_column(ForeignKey(_TENANT, ondelete="CASCADE"))
    name: Mapped[str]
    title: Mapped[str | None] = mapped_column(default=None)
    description: Mapped[str | None] = mapped_column(default=None)
    steps: Mapped[list[dict[str, Any]]]
    revision: Mapped[int] = mapped_column(BigInteger, server_default=text("1"), default=1)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)


class StepTemplate(Base, kw_only=True):
    """A step that others are made from; null is what it leaves to them."""

    __tablename__ = "step_templates"
    __table_args__ = (UniqueConstraint("tenant", "name", name="name: unique among step templates"),)

    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"), default=None
    )
    tenant: Mapped[str] = mapped_column(ForeignKey(_TENANT, ondelete="CASCADE"))
    name: Mapped[str]
    description: Mapped[str | None] = mapped_column(default=None)
    kind: Mapped[str]
    input: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'::jsonb"), default_factory=dict
    )
    timeout_seconds: Mapped[float | None] = mapped_column(default=None)
    retries: Mapped[int | None] = mapped_column(Integer, default=None)
    retry_delay_seconds: Mapped[int | None] = mapped_column(Integer, default=None)
    revision: Mapped[int] = mapped_column(BigInteger, server_default=text("1"), default=1)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)


class ActionRun(Base, kw_only=True):
    """A run of an action, by the id that Prefect gave it.

    `revision` is that of the action when the run was last taken up.
    """

    __tablename__ = "action_runs"

    tenant: Mapped[str] = mapped_column(ForeignKey(_TENANT, ondelete="CASCADE"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    action: Mapped[str]
    revision: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)


class ActionStep(Base, kw_only=True):
    """What a step of a run has done. `next` is null where the run ended with it."""

    __tablename__ = "action_steps"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant", "run_id"], ["action_runs.tenant", "action_runs.id"], ondelete="CASCADE"
        ),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[UUID] = mapped_column(primary_key=True)
    step: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str]
    status: Mapped[str]
    input: Mapped[Any] = mapped_column(JSONB, server_default=text("'null'::jsonb"), default=None)
    output: Mapped[Any] = mapped_column(JSONB, server_default=text("'null'::jsonb"), default=None)
    error: Mapped[str | None] = mapped_column(default=None)
    next: Mapped[str | None] = mapped_column(default=None)
    started_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    finished_at: Mapped[datetime | None] = mapped_column(default=None)
