"""What the runs that have ended make of their definitions: counts, pauses, notices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import load_only

from store import jobs, letters, notices
from store.fleet import Notice
from store.letters import Failure
from store.models import Definition

SAID = 500
"""Characters of an error that a notice or the note of a pause repeats."""

UNDER_WAY = datetime(9000, 1, 1, tzinfo=UTC)
"""Stands in `after_at` while a run is under way, whose end it will count from."""


@dataclass(frozen=True)
class Ended:
    """A run that has ended, as far as its definition is concerned.

    Attributes:
        run_id: Prefect's id of it.
        deployment_id: Its deployment.
        started_at: When it began; None if it was cancelled before that.
        ended_at: When it ended.
        due_at: When it was due by its schedule; None if somebody has asked for it.
        state: How, as Prefect names it.
        completed: Whether it did what it was to do.
        cancelled: Whether somebody has ended it.
        failure: What is kept of it if it failed for good.
    """

    run_id: str
    deployment_id: UUID
    started_at: datetime | None
    ended_at: datetime
    state: str
    completed: bool = False
    failure: Failure | None = None
    due_at: datetime | None = None
    cancelled: bool = False


async def follow(session: AsyncSession, runs: Sequence[Ended]) -> None:
    """Count runs, keep those that have failed, and pause and tell where a definition asks for it.

    Args:
        session: The transaction in which they are counted.
        runs: Those that have ended, the earliest first.
    """
    definitions = await _locked(session, runs)
    told: dict[str, list[Notice]] = defaultdict(list)
    for run in runs:
        row = definitions.get(run.deployment_id)
        if row is None:
            continue
        if row.after_at is not None:
            row.after_at = _counts_from(row, row.after_at, run)
        if run.started_at is None:
            continue
        row.run_count += 1
        if row.last_run_at is None or row.last_run_at <= run.started_at:
            row.last_status, row.last_run_at = run.state, run.started_at
        if notice := _outcome(row, run):
            told[row.tenant].append(notice)
    await session.flush()
    for run in runs:
        # A job is its own record, and is queued again instead of replayed.
        row = definitions.get(run.deployment_id)
        if run.failure is not None and (row is None or row.duty != jobs.DUTY):
            await letters.write(session, run.run_id, run.deployment_id, run.ended_at, run.failure)
    if cancelled := [run.run_id for run in runs if run.cancelled]:
        await letters.reopen(session, cancelled)
    if completed := [run.run_id for run in runs if run.completed]:
        await letters.settle(session, completed, runs[-1].ended_at)
    for news in told.values():
        await notices.write_all(session, news)


async def _locked(session: AsyncSession, runs: Sequence[Ended]) -> dict[UUID | None, Definition]:
    # As one value: PostgreSQL takes no more than 32,767, and nobody may have watched for days.
    ids = list({run.deployment_id for run in runs})
    rows = await session.scalars(
        select(Definition)
        .where(Definition.deployment_id == func.any(ids))
        .order_by(Definition.id)  # as everybody who locks several does
        .options(load_only(*(getattr(Definition, name) for name in _USED)))
        .with_for_update()
    )
    return {one.deployment_id: one for one in rows}


_USED = (
    "tenant name duty deployment_id enabled pause_note pause_after_failures notify notify_on "
    "notify_after run_count last_status last_run_at failures outcome after_at updated_at overlap"
).split()


def _counts_from(row: Definition, at: datetime, run: Ended) -> datetime | None:
    """Return from when on `after_seconds` counts now; None if this was the run it counted to.

    That one may have begun before it was known that another goes on, which has moved `at` since.
    """
    if run.due_at is not None and run.due_at >= min(at, row.updated_at):
        # By `skip` it was cancelled for another run, and waits for the end of that.
        return at if run.started_at is None and row.overlap == "skip" else None
    if run.started_at is None:
        return at
    return run.ended_at if at == UNDER_WAY else max(at, run.ended_at)


def _outcome(row: Definition, run: Ended) -> Notice | None:
    """Count failures in a row, and return what people are to be told if that changes something.

    A run that was cancelled says nothing of either.
    """
    if run.failure is not None:
        row.failures += 1
        error = letters.storable(run.failure.error).strip()[:SAID] or run.state
        enough = row.pause_after_failures
        if enough is not None and row.failures >= enough and row.enabled:
            row.enabled = False
            row.pause_note = f"Paused by Rota after {_in_a_row(row.failures)}; the last: {error}"
        if row.failures < row.notify_after or row.outcome == "failure":
            return None
        row.outcome = "failure"
        due = _instant(run.failure.occurrence)
        text = f"After {_in_a_row(row.failures)}; the last, due at {due}: {error}"
        text += "" if row.enabled else "\nIt is paused."
        return _notice(row, "failure", "critical", f"fails: {error.splitlines()[0]}", text)
    if not run.completed:
        return None
    failures, row.failures = row.failures, 0
    before, row.outcome = row.outcome, "success"
    if before == "failure" and "recovery" in row.notify_on:
        text = f"It has completed, after {_in_a_row(failures)}."
        return _notice(row, "recovery", "info", "works again", text)
    if before != "success":
        text = f"It has completed at {_instant(run.ended_at)}."
        return _notice(row, "success", "info", "works", text)
    return None


def _notice(row: Definition, what: str, severity: str, subject: str, text: str) -> Notice | None:
    if not row.notify or what not in row.notify_on:
        return None
    return Notice(
        tenant=row.tenant,
        kind=f"definition_{what}",
        severity=severity,
        subject=f"{row.reference} {subject}",
        text=text,
        blocks=list(row.notify),
    )


def _in_a_row(failures: int) -> str:
    return f"{failures} runs in a row that failed" if failures != 1 else "a run that failed"


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
