"""Writing the status columns, and Rota's own marks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import load_only

from store import outcomes
from store.models import Definition, Mark
from store.outcomes import Ended
from store.writing import writing

OVERLAP = timedelta(minutes=1)
"""How far back runs are read again: one that ended a moment ago may not be committed yet."""

AT_ONCE = 1000
"""Rows that one statement names; PostgreSQL takes 32,767 values in one."""


async def record(engine: AsyncEngine, rows: Sequence[dict[str, Any]]) -> None:
    """Write status columns: each row has the definition's `id`, and all have the same columns."""
    if rows:
        async with AsyncSession(engine) as session, session.begin():
            # By id, as everybody who locks several does.
            await session.execute(update(Definition), sorted(rows, key=lambda row: row["id"]))


async def due(engine: AsyncEngine, at: datetime, limit: int = 2000) -> list[Definition]:
    """Return definitions whose `next_run_at` has passed."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        return list(
            await session.scalars(
                select(Definition).where(Definition.next_run_at <= at).limit(limit)
            )
        )


async def relative(engine: AsyncEngine, at: datetime, until: datetime) -> list[Definition]:
    """Return definitions that wait for the end of a run, or are due so long after one.

    Only the columns that tell one from another are read: there may be any number of rows.

    Args:
        engine: The database.
        at: Those that are due later than this,
        until: and not later than this; in UTC.
    """
    counted = Definition.after_at + func.make_interval(0, 0, 0, 0, 0, 0, Definition.after_seconds)
    # Null counts for nothing; a pause, or a beginning still ahead, puts it off.
    due = func.greatest(counted, Definition.starts_at, Definition.paused_until)
    waits = Definition.after_at == outcomes.UNDER_WAY
    soon = and_(Definition.after_at <= until, due > at, due <= until)
    chosen = select(Definition).where(Definition.deployment_id.is_not(None), or_(waits, soon))
    read = load_only(Definition.id, Definition.deployment_id, Definition.after_at)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        return list(await session.scalars(chosen.order_by(Definition.id).options(read)))


async def count_after(
    engine: AsyncEngine, rows: Sequence[Definition], after_at: datetime | None
) -> None:
    """Write what `after_seconds` counts from, where nobody has written it since it was read.

    Args:
        engine: The database.
        rows: As `relative` read them.
        after_at: In UTC; None for now, by the database's clock.
    """
    for start in range(0, len(rows), AT_ONCE):
        some = [(one.id, one.after_at) for one in rows[start : start + AT_ONCE]]
        as_read = tuple_(Definition.id, Definition.after_at).in_(some)
        locked = select(Definition.id).where(as_read).order_by(Definition.id).with_for_update()
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(
                update(Definition)
                .where(Definition.id == func.any(list(await session.scalars(locked))))
                .values(after_at=after_at or func.clock_timestamp())
                .execution_options(synchronize_session=False)
            )


async def read_until(engine: AsyncEngine) -> datetime:
    """Return from when on ended runs are to be read: the watermark, less the overlap."""
    async with AsyncSession(engine) as session:
        at = await session.scalar(select(Mark.at).where(Mark.name == "runs"))
        if at is None:  # somebody deleted it: what ended until now is not counted again
            await mark(engine, "runs", [])
            return await read_until(engine)
        return at - OVERLAP


async def count(engine: AsyncEngine, runs: Sequence[Ended]) -> list[Ended]:
    """Add ended runs to their definitions, each end once however often it is read.

    The watermark, the counts, the dead letters, pauses and notices are written in one transaction,
    so that none outlives the others.

    Returns:
        The runs that were new, the earliest first.
    """
    async with writing(engine, "rota") as session:
        mark = await session.get(Mark, "runs", with_for_update=True)
        assert mark is not None
        seen = dict(mark.value or [])
        # One that somebody has let Prefect try again ends once more, at another time.
        new = (run for run in runs if seen.get(run.run_id) != run.ended_at.timestamp())
        fresh = sorted(new, key=lambda run: run.ended_at)
        if not fresh:
            return []
        await outcomes.follow(session, fresh)
        seen |= {run.run_id: run.ended_at.timestamp() for run in fresh}
        mark.at = max(mark.at, fresh[-1].ended_at)
        horizon = (mark.at - OVERLAP).timestamp()
        mark.value = [[run_id, ended] for run_id, ended in seen.items() if ended >= horizon]
        return fresh


async def mark(engine: AsyncEngine, name: str, value: Any) -> None:
    """Remember one fact, as of now by the database's clock."""
    async with AsyncSession(engine) as session, session.begin():
        now = func.clock_timestamp()
        await session.execute(
            insert(Mark)
            .values(name=name, at=now, value=value)
            .on_conflict_do_update(index_elements=["name"], set_={"at": now, "value": value})
        )


async def marked(engine: AsyncEngine, name: str) -> tuple[timedelta, Any] | None:
    """Return how long ago a fact was remembered, and the fact; None if it never was."""
    async with AsyncSession(engine) as session:
        found = (
            await session.execute(
                select(func.clock_timestamp() - Mark.at, Mark.value).where(Mark.name == name)
            )
        ).one_or_none()
        return None if found is None else (found[0], found[1])
