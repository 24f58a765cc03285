"""What `watch` asks of the jobs, and writes of them, while it keeps them in step with Prefect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.jobs import DEFAULT_LIMIT, DUTY, LIMIT_KEY, NAME, definition_of, is_going
from store.models import Definition, Tenant
from store.work import Job, Setting
from store.writing import writing

CHANNEL = "rota_jobs"
"""What the triggers of jobs and settings notify."""

PAGE = 200


@dataclass(frozen=True)
class Lane:
    """The jobs of one tenant, as they are let through.

    Attributes:
        tenant: The tenant's slug.
        defined: Whether they have their definition.
        deployment_id: Prefect's deployment of that; None until there is one.
        work_pool: The pool that the definition names, if it names one.
        open: Whether they may start: neither the tenant nor the definition is held.
        limit: How many may run at once.
    """

    tenant: str
    defined: bool
    deployment_id: UUID | None
    work_pool: str | None
    open: bool
    limit: int


@dataclass(frozen=True)
class Waiting:
    """A queued job without a run."""

    id: UUID
    name: str
    attempt: int
    priority: int
    queued_at: Any


@dataclass(frozen=True)
class Seen:
    """A job whose run has to be looked at, as it was when it was read."""

    id: UUID
    tenant: str
    status: str
    attempt: int
    run_id: UUID
    execution: UUID | None
    cancel_requested: bool
    error: str | None
    work_pool: str | None

    @property
    def to_cancel(self) -> bool:
        """Whether the run is not to go on."""
        return self.cancel_requested or self.status not in ("queued", "running")


async def lanes(engine: AsyncEngine) -> list[Lane]:
    """Return the tenants that have jobs which have not ended."""
    live = select(Job.id).where(Job.tenant == Tenant.slug, Job.status.in_(("queued", "running")))
    most = (
        select(Setting.value)
        .where(Setting.tenant == Tenant.slug, Setting.key == LIMIT_KEY)
        .scalar_subquery()
    )
    found = (
        select(
            Tenant.slug,
            Definition.id.is_not(None),
            Definition.deployment_id,
            Definition.work_pool,
            is_going() & ~Tenant.suspended,
            most,
        )
        .outerjoin(Definition, definition_of(Tenant.slug))
        .where(live.exists())
        .order_by(Tenant.slug)
    )
    async with AsyncSession(engine) as session:
        return [
            Lane(slug, own, deployment, pool, bool(going), DEFAULT_LIMIT if most is None else most)
            for slug, own, deployment, pool, going, most in await session.execute(found)
        ]


async def define(engine: AsyncEngine, tenant: str) -> None:
    """Make the definition that a tenant's jobs run by, unless there is one of its name."""
    new = insert(Definition).values(
        tenant=tenant, name=NAME, duty=DUTY, title="Jobs", created_by="rota"
    )
    async with writing(engine) as session:
        if await session.get(Tenant, tenant, with_for_update={"read": True, "key_share": True}):
            await session.execute(new.on_conflict_do_nothing())


async def without_run(engine: AsyncEngine, tenant: str, window: int) -> list[Waiting]:
    """Return those without a run among the first `window` queued jobs of a tenant, in order."""
    first = (
        select(Job.id, Job.name, Job.attempt, Job.priority, Job.queued_at, Job.run_id)
        .where(Job.tenant == tenant, Job.status == "queued")
        .order_by(Job.priority.desc(), Job.queued_at, Job.id)
        .limit(window)
        .subquery()
    )
    columns = (first.c[name] for name in ("id", "name", "attempt", "priority", "queued_at"))
    async with AsyncSession(engine) as session:
        found = await session.execute(
            select(*columns)
            .where(first.c.run_id.is_(None))
            .order_by(first.c.priority.desc(), first.c.queued_at, first.c.id)
        )
        return [Waiting(*row) for row in found]


async def give_run(engine: AsyncEngine, job: Waiting, run_id: UUID) -> None:
    """Write which run a job was given, unless something became of it meanwhile."""
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(
            update(Job)
            .where(Job.id == job.id, Job.attempt == job.attempt, Job.run_id.is_(None))
            .values(run_id=run_id, watched=True)
        )


async def watched(engine: AsyncEngine, after: UUID | None, *, urgent: bool) -> list[Seen]:
    """Return a page of the jobs whose runs have to be looked at, by id.

    Args:
        engine: The database.
        after: The id that they come after; None for the first page.
        urgent: Those only that somebody wants cancelled.
    """
    cancelled = Job.cancel_requested_at.is_not(None)
    own = (Job.id, Job.tenant, Job.status, Job.attempt, Job.run_id, Job.execution)
    found = (
        select(*own, cancelled, Job.error, Definition.work_pool)
        .outerjoin(Definition, definition_of(Job.tenant))
        .where(Job.watched, Job.run_id.is_not(None))
    )
    if after is not None:
        found = found.where(Job.id > after)
    if urgent:
        found = found.where(cancelled | Job.status.not_in(("queued", "running")))
    async with AsyncSession(engine) as session:
        rows = await session.execute(found.order_by(Job.id).limit(PAGE))
        return [Seen(*row) for row in rows]


@asynccontextmanager
async def unchanged(engine: AsyncEngine, seen: Seen) -> AsyncIterator[Job | None]:
    """Yield a job to be written, or None if something became of it since it was seen."""
    async with AsyncSession(engine) as session, session.begin():
        yield await session.scalar(
            select(Job)
            .where(
                Job.id == seen.id,
                Job.status == seen.status,
                Job.attempt == seen.attempt,
                Job.run_id == seen.run_id,
                Job.execution.is_not_distinct_from(seen.execution),
            )
            .with_for_update()
        )
