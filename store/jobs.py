"""Jobs: queued by people, begun and ended by workers, and lists of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.fleet import hold
from store.models import Definition, Tenant
from store.work import Job, Setting
from store.writing import writing

NAME = "jobs"
"""The name of the definition that a tenant's jobs run by."""

DUTY = "run_job"

LIMIT_KEY = "max_concurrent_jobs"
DEFAULT_LIMIT = 2

LOST = "its worker was lost or stopped while it ran"
"""What is said of a job whose run starts again: who finds that first does not know which it was."""

LOSSES = 10
"""Workers that one job may lose: it may be what kills them."""

STATUSES = ("queued", "running", "completed", "failed", "cancelled")


class Running(Exception):
    """What is asked for cannot be done to a job that is running."""


class Superseded(Exception):
    """Whoever reports a job's end is not the one that runs it."""


@dataclass(frozen=True)
class Start:
    """Whether a job may begin.

    Attributes:
        decision: `go`; `wait`, and ask again; or `gone`, this run is not to run it.
        job: The job.
        why: Why it does not go; empty where it does.
    """

    decision: Literal["go", "wait", "gone"]
    job: Job
    why: str = ""


@dataclass(frozen=True)
class End:
    """How a command has ended.

    Attributes:
        interrupted: Whether it was ended from outside, for a cancellation or the worker's end.
        exit_code: The exit code, 128 and the signal's number for one that was killed.
        output: The last of what it wrote.
        error: Why it counts as failed whatever its exit code says.
    """

    interrupted: bool = False
    exit_code: int | None = None
    output: str | None = None
    error: str | None = None


# -- for people


def rows(tenant: str, statuses: Sequence[str] = (), q: str | None = None) -> Select[Any]:
    """Return the list of a tenant's jobs, in no order, without outputs and variables' values.

    Args:
        tenant: Whose.
        statuses: Of one of these; none asks for any.
        q: A part of the name.
    """
    conditions: list[ColumnElement[bool]] = [Job.tenant == tenant]
    if statuses:
        conditions.append(Job.status.in_(statuses))
    if q:
        conditions.append(Job.name.icontains(q, autoescape=True))
    keys = select(func.jsonb_object_keys(Job.environment)).scalar_subquery()
    shown = [one for one in Job.__table__.columns if one.name not in ("environment", "output")]
    return select(*shown, func.array(keys).label("variables")).where(*conditions)


async def find(engine: AsyncEngine, tenant: str, key: str) -> Job | None:
    """Return the job of an id or a name, if there is such a one."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        return await _find(session, tenant, key)


async def create(
    engine: AsyncEngine, tenant: str, values: Mapping[str, Any], who: str | None = None
) -> Job | None:
    """Queue a job; return it, or None if its name is taken.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with writing(engine, who) as session:
        if await session.get(Tenant, tenant, with_for_update={"read": True, "key_share": True}):
            new = insert(Job).values(tenant=tenant, **values).on_conflict_do_nothing()
            made: Job | None = await session.scalar(new.returning(Job))
            return made
        raise NoResultFound


async def cancel(engine: AsyncEngine, tenant: str, key: str, who: str | None = None) -> Job | None:
    """Cancel a job: at once if it is queued, else as soon as its worker has ended it.

    One that has ended stays as it is.
    """
    async with writing(engine, who) as session:
        job = await _find(session, tenant, key, lock=True)
        if job is not None and job.status in ("queued", "running"):
            job.status = "cancelled"  # a trigger makes of it what can be carried out
            await _written(session, job)
        return job


async def requeue(engine: AsyncEngine, tenant: str, key: str, who: str | None = None) -> Job | None:
    """Queue a job that has ended once more; one that is queued stays as it is.

    Raises:
        Running: It has not ended.
    """
    async with writing(engine, who) as session:
        job = await _find(session, tenant, key, lock=True)
        if job is not None and job.status == "running":
            raise Running
        if job is not None and job.status != "queued":
            job.status = "queued"
            await _written(session, job)
        return job


async def delete(engine: AsyncEngine, tenant: str, key: str, who: str | None = None) -> bool:
    """Delete a job; return whether there was such a one.

    Raises:
        Running: It has not ended.
    """
    async with writing(engine, who) as session:
        job = await _find(session, tenant, key, lock=True)
        if job is None:
            return False
        if job.status == "running":
            raise Running
        await session.delete(job)
        return True


async def limit(engine: AsyncEngine, tenant: str) -> int:
    """Return how many jobs of a tenant may run at once."""
    async with AsyncSession(engine) as session:
        return await _limit(session, tenant)


async def set_limit(engine: AsyncEngine, tenant: str, most: int, who: str | None = None) -> None:
    """Say how many jobs of a tenant may run at once, 0 to 1000.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with writing(engine, who) as session:
        if not await session.get(Tenant, tenant, with_for_update={"read": True, "key_share": True}):
            raise NoResultFound
        new = insert(Setting).values(tenant=tenant, key=LIMIT_KEY, value=most)
        await session.execute(
            new.on_conflict_do_update(
                index_elements=["tenant", "key"],
                set_={"value": new.excluded.value, "updated_at": func.clock_timestamp()},
            )
        )


async def counts(engine: AsyncEngine, tenant: str | None = None) -> dict[str, int]:
    """Return how many jobs there are in each status, and in all."""
    counted = select(Job.status, func.count()).group_by(Job.status)
    if tenant is not None:
        counted = counted.where(Job.tenant == tenant)
    async with AsyncSession(engine) as session:
        found = {status: count for status, count in await session.execute(counted)}  # noqa: C416
    return {status: found.get(status, 0) for status in STATUSES} | {"total": sum(found.values())}


# -- for workers


async def start(
    engine: AsyncEngine, tenant: str, job_id: UUID, run_id: UUID, attempt: int, execution: UUID
) -> Start | None:
    """Decide whether a run may begin its job now; None if there is no such job.

    It is decided for one run of a tenant after the other, so that however many workers there are,
    no more jobs run than may.

    Args:
        engine: The database.
        tenant: Whose job it is.
        job_id: Which.
        run_id: Prefect's run.
        attempt: Which of the job's runs that is.
        execution: Drawn by the run when it began; a run that begins anew draws another.
    """
    async with writing(engine) as session:
        if not await hold(session, tenant, "jobs"):
            return None
        job = await _find(session, tenant, str(job_id), lock=True)
        if job is None:
            return None
        if job.status == "running" and job.execution == execution:
            return Start("go", job)  # the answer was lost
        if job.attempt != attempt or job.run_id not in (None, run_id):
            return Start("gone", job, f"it has another run: its attempt is {job.attempt}")
        if job.status == "running":
            return _restarted(job, execution)
        if job.status != "queued":
            return Start("gone", job, f"it is {job.status}")
        if why := await _full(session, tenant):
            return Start("wait", job, why)
        job.run_id, job.watched = run_id, True
        _begin(job, execution)
        return Start("go", job)


async def finish(
    engine: AsyncEngine, tenant: str, job_id: UUID, execution: UUID, end: End
) -> Job | None:
    """Write how a job's command has ended; return the job, or None if there is no such one.

    One that was interrupted without having been cancelled here stays running until Prefect tells
    what becomes of its run.

    Raises:
        Superseded: Somebody else runs it, or has been queued to.
    """
    async with writing(engine) as session:
        job = await _find(session, tenant, str(job_id), lock=True)
        if job is None:
            return None
        if job.execution != execution:
            raise Superseded
        if job.status != "running":
            return job  # the answer was lost
        job.exit_code, job.output, job.error = end.exit_code, end.output, end.error
        failed = end.exit_code != 0 or end.error is not None
        if end.interrupted and job.cancel_requested_at is None:
            return job
        if end.interrupted or (failed and job.cancel_requested_at is not None):
            close(job, "cancelled")
        elif not failed:
            close(job, "completed")
        else:
            job.failures += 1
            if job.failures <= job.retries:
                again(job)
                job.queued_at = func.clock_timestamp()
            else:
                close(job, "failed")
        await _written(session, job)
        return job


def close(job: Job, status: str) -> None:
    """End a job, unless it has ended; its run is not looked at any more."""
    job.watched = False
    if job.status in ("queued", "running"):
        job.status, now = status, func.clock_timestamp()
        job.finished_at = now
        if job.started_at is not None:
            job.last_run = now


def again(job: Job) -> None:
    """Queue a job for another run; it keeps its place."""
    job.status, job.attempt = "queued", job.attempt + 1
    job.run_id, job.watched = None, False


def lose(job: Job, why: str) -> bool:
    """Note that what ran a job is lost; return whether the job may run again."""
    job.losses += 1
    if job.cancel_requested_at is not None:
        close(job, "cancelled")
        return False
    if job.on_lost == "fail" or job.losses > LOSSES:
        job.error = why if job.losses == 1 else f"{why} (for the {job.losses}th time)"
        close(job, "failed")
        return False
    return True


def _restarted(job: Job, execution: UUID) -> Start:
    """Begin a job anew in the run that had begun it: the worker that it had is gone."""
    if not lose(job, LOST):
        return Start("gone", job, f"{LOST}, and it is {job.status}")
    _begin(job, execution)
    return Start("go", job)


def _begin(job: Job, execution: UUID) -> None:
    job.status, job.execution = "running", execution
    job.started_at = func.clock_timestamp()
    job.exit_code = job.output = job.error = None


async def _full(session: AsyncSession, tenant: str) -> str:
    held = select(Tenant.suspended, is_going()).outerjoin(Definition, definition_of(Tenant.slug))
    suspended, going = (await session.execute(held.where(Tenant.slug == tenant))).one()
    if suspended:
        return "the tenant is suspended"
    if not going:
        return f"the definition {tenant}/{NAME} is paused"
    running = select(func.count()).where(Job.tenant == tenant, Job.status == "running")
    most, count = await _limit(session, tenant), await session.scalar(running) or 0
    return "" if count < most else f"{count} jobs are running, and {most} may"


async def _limit(session: AsyncSession, tenant: str) -> int:
    found = await session.scalar(
        select(Setting.value).where(Setting.tenant == tenant, Setting.key == LIMIT_KEY)
    )
    return DEFAULT_LIMIT if found is None else int(found)


async def wait(session: AsyncSession, tenant: str) -> bool:
    """Return whether there are jobs of a tenant that have not ended."""
    live = select(Job.id).where(Job.tenant == tenant, Job.status.in_(("queued", "running")))
    return bool(await session.scalar(select(live.exists())))


def definition_of(tenant: Any) -> ColumnElement[bool]:
    """Return the condition of the definition that a tenant's jobs run by."""
    return and_(Definition.tenant == tenant, Definition.name == NAME, Definition.duty == DUTY)


def is_going() -> ColumnElement[bool]:
    """Return whether a definition is not paused, as of now."""
    now = func.now()
    return func.coalesce(
        and_(
            Definition.enabled,
            or_(Definition.paused_until.is_(None), Definition.paused_until <= now),
            or_(Definition.starts_at.is_(None), Definition.starts_at <= now),
            or_(Definition.ends_at.is_(None), Definition.ends_at > now),
        ),
        False,
    )


async def _find(session: AsyncSession, tenant: str, key: str, *, lock: bool = False) -> Job | None:
    found = select(Job).where(Job.tenant == tenant)
    if lock:
        found = found.with_for_update()
    if (one := _as_id(key)) is not None and (
        job := await session.scalar(found.where(Job.id == one))
    ) is not None:
        return job
    named: Job | None = await session.scalar(found.where(Job.name == key))
    return named


def _as_id(key: str) -> UUID | None:
    try:
        return UUID(key)
    except ValueError:
        return None


async def _written(session: AsyncSession, job: Job) -> None:
    await session.flush()
    await session.refresh(job)  # triggers have a say in it
