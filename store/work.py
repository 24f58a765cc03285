"""The tables of jobs: what is to be run, and how much of it at once."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Integer, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from store.models import Base

_WHO = "coalesce(nullif(current_setting('rota.who'::text, true), ''::text), SESSION_USER::text)"


class Job(Base, kw_only=True):
    """A command of a tenant's that runs once, and what became of it.

    `attempt` counts the runs that it was given, `failures` those in which the command failed, and
    `losses` those whose worker was lost, all since it was queued last by somebody. `execution` is
    drawn by whoever has begun it, and tells a second start of one run from an answer that was
    lost. `watched` says that Prefect's run still has to be looked at.
    """

    __tablename__ = "jobs"

    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"), init=False
    )
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.slug", ondelete="CASCADE"))
    name: Mapped[str]
    command: Mapped[str]
    environment: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'::jsonb"), default_factory=dict
    )
    directory: Mapped[str | None] = mapped_column(default=None)
    priority: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)
    timeout_seconds: Mapped[float | None] = mapped_column(default=None)
    retries: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)
    on_lost: Mapped[str] = mapped_column(server_default=text("'requeue'"), default="requeue")
    status: Mapped[str] = mapped_column(server_default=text("'queued'"), default="queued")
    cancel_requested_at: Mapped[datetime | None] = mapped_column(default=None)
    attempt: Mapped[int] = mapped_column(Integer, server_default=text("1"), default=1)
    failures: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)
    losses: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)
    run_id: Mapped[UUID | None] = mapped_column(default=None)
    execution: Mapped[UUID | None] = mapped_column(default=None)
    watched: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    exit_code: Mapped[int | None] = mapped_column(Integer, default=None)
    output: Mapped[str | None] = mapped_column(default=None)
    error: Mapped[str | None] = mapped_column(default=None)
    last_run: Mapped[datetime | None] = mapped_column(default=None)
    queued_at: Mapped[datetime] = mapped_column(
        server_default=text("clock_timestamp()"), init=False
    )
    started_at: Mapped[datetime | None] = mapped_column(default=None)
    finished_at: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"), init=False)
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"), init=False)
    created_by: Mapped[str] = mapped_column(server_default=text(_WHO), init=False)


class Setting(Base, kw_only=True):
    """What is set for a tenant, by its own people or by the operator; each key has its form."""

    __tablename__ = "settings"

    tenant: Mapped[str] = mapped_column(
        ForeignKey("tenants.slug", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any] = mapped_column(JSONB)
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"), init=False)
