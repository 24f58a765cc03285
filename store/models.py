"""The tables. `migrations/` makes them; a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

SPEC_COLUMNS = (
    "title description duty parameters inputs cron interval_seconds anchor_at run_at after_seconds "
    "timezone day_and starts_at ends_at enabled paused_until pause_note overlap retries "
    "retry_delay_seconds timeout_seconds work_pool job_variables tags keep_runs "
    "pause_after_failures notify notify_on notify_after"
).split()
"""The columns of a definition that belong to its user, beside its identity."""


class Instant(TypeDecorator[datetime]):
    """An aware instant; the infinities come as Python's first and last one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the infinities their zone, which asyncpg leaves out."""
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """All instants are stored with their zone and come back aware."""

    type_annotation_map = {
        str: Text,
        datetime: Instant,
        float: Double,
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
        list[str]: ARRAY(Text),
        UUID: PGUUID(as_uuid=True),
    }


class Tenant(Base):
    """An organization whose definitions are kept apart; it can be suspended as a whole."""

    __tablename__ = "tenants"

    slug: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str | None] = mapped_column(default=None)
    suspended: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    suspended_reason: Mapped[str | None] = mapped_column(default=None)
    suspended_at: Mapped[datetime | None] = mapped_column(default=None)


class Definition(Base):
    """Which duty, when, with which parameters and policies, for which tenant.

    Spec columns belong to the user, status columns (from `deployment_id` on) to Rota; neither
    writes the other's. `after_at` is what `after_seconds` counts from, null once that has run.
    """

    __tablename__ = "definitions"

    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"), default=None
    )
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.slug", ondelete="CASCADE"))
    name: Mapped[str]
    title: Mapped[str | None] = mapped_column(default=None)
    description: Mapped[str | None] = mapped_column(default=None)
    duty: Mapped[str]
    parameters: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'::jsonb"), default_factory=dict
    )
    inputs: Mapped[list[dict[str, Any]]] = mapped_column(
        server_default=text("'[]'::jsonb"), default_factory=list
    )
    cron: Mapped[str | None] = mapped_column(default=None)
    interval_seconds: Mapped[int | None] = mapped_column(BigInteger, default=None)
    anchor_at: Mapped[datetime | None] = mapped_column(default=None)
    run_at: Mapped[datetime | None] = mapped_column(default=None)
    after_seconds: Mapped[int | None] = mapped_column(BigInteger, default=None)
    timezone: Mapped[str] = mapped_column(server_default=text("'UTC'"), default="UTC")
    day_and: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    starts_at: Mapped[datetime | None] = mapped_column(default=None)
    ends_at: Mapped[datetime | None] = mapped_column(default=None)
    enabled: Mapped[bool] = mapped_column(server_default=text("true"), default=True)
    paused_until: Mapped[datetime | None] = mapped_column(default=None)
    pause_note: Mapped[str | None] = mapped_column(default=None)
    overlap: Mapped[str] = mapped_column(server_default=text("'allow'"), default="allow")
    retries: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)
    retry_delay_seconds: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)
    timeout_seconds: Mapped[float | None] = mapped_column(default=None)
    work_pool: Mapped[str | None] = mapped_column(default=None)
    job_variables: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'::jsonb"), default_factory=dict
    )
    tags: Mapped[list[str]] = mapped_column(server_default=text("'{}'"), default_factory=list)
    keep_runs: Mapped[int] = mapped_column(Integer, server_default=text("10"), default=10)
    pause_after_failures: Mapped[int | None] = mapped_column(Integer, default=None)
    notify: Mapped[list[str]] = mapped_column(server_default=text("'{}'"), default_factory=list)
    notify_on: Mapped[list[str]] = mapped_column(
        server_default=text("'{failure,recovery}'"), default_factory=lambda: ["failure", "recovery"]
    )
    notify_after: Mapped[int] = mapped_column(Integer, server_default=text("1"), default=1)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    created_by: Mapped[str | None] = mapped_column(
        server_default=text("current_user"), default=None
    )

    deployment_id: Mapped[UUID | None] = mapped_column(default=None)
    fingerprint: Mapped[str | None] = mapped_column(default=None)
    applied_at: Mapped[datetime | None] = mapped_column(default=None)
    problem: Mapped[str | None] = mapped_column(default=None)
    next_run_at: Mapped[datetime | None] = mapped_column(default=None)
    last_run_at: Mapped[datetime | None] = mapped_column(default=None)
    last_status: Mapped[str | None] = mapped_column(default=None)
    run_count: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), default=0)
    failures: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)
    outcome: Mapped[str | None] = mapped_column(default=None)
    after_at: Mapped[datetime | None] = mapped_column(default=None)
    revision: Mapped[int] = mapped_column(BigInteger, server_default=text("1"), default=1)

    @property
    def reference(self) -> str:
        """How people and programs address it: `tenant/name`."""
        return f"{self.tenant}/{self.name}"


class Change(Base):
    """A note that something was written and that Prefect may not know it yet.

    `name` is null where the whole tenant is meant, `tenant` too where everything is.
    `started_at` is set before the first call to Prefect: who finds it set took over half-done
    work, and lets Prefect make the runs again from that instant on. Before `due_at` there is
    nothing to do: what has just been written is looked at once more, a little later.
    """

    __tablename__ = "changes"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True, init=False)
    operation: Mapped[str]
    tenant: Mapped[str | None] = mapped_column(default=None)
    name: Mapped[str | None] = mapped_column(default=None)
    definition_id: Mapped[UUID | None] = mapped_column(default=None)
    noted_at: Mapped[datetime] = mapped_column(
        server_default=text("clock_timestamp()"), default=None
    )
    started_at: Mapped[datetime | None] = mapped_column(default=None)
    due_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"), default=None)


class Mark(Base):
    """One fact that Rota remembers of itself: who it is, how far it has read, who leads."""

    __tablename__ = "marks"

    name: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    value: Mapped[Any] = mapped_column(JSONB, server_default=text("'null'::jsonb"), default=None)


class Token(Base):
    """What lets a program or a person call the API; the secret itself is stored nowhere.

    `tenant` is null where it is good for all tenants. A token is revoked by deleting its row.
    """

    __tablename__ = "tokens"

    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"), default=None
    )
    name: Mapped[str]
    role: Mapped[str]
    tenant: Mapped[str | None] = mapped_column(
        ForeignKey("tenants.slug", ondelete="CASCADE"), default=None
    )
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    created_by: Mapped[str] = mapped_column(server_default=text("session_user"), default=None)
    expires_at: Mapped[datetime | None] = mapped_column(default=None)
    last_used_at: Mapped[datetime | None] = mapped_column(default=None)


class Audit(Base):
    """One write, as a trigger saw it: whoever writes, by the API, the CLI or plain SQL.

    `before` is null for what was created, `after` for what was deleted.
    """

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True, init=False)
    at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"), default=None)
    who: Mapped[str]
    operation: Mapped[str]
    kind: Mapped[str]
    tenant: Mapped[str | None] = mapped_column(default=None)
    name: Mapped[str | None] = mapped_column(default=None)
    before: Mapped[dict[str, Any] | None] = mapped_column(JSONB, default=None)
    after: Mapped[dict[str, Any] | None] = mapped_column(JSONB, default=None)
