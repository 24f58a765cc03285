"""The notes of what was written: made by triggers, dealt with by `watch`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.models import Change, Tenant

CHANNEL = "rota"
"""What the triggers notify."""

SETTLE = "settle"
"""The operation of a note that asks for one more look at what was written."""

_WRITER = 0x526F7461_0002


@dataclass(frozen=True)
class Work:
    """Notes that are to be dealt with together.

    Attributes:
        at: When they were taken, by the database's clock.
        notes: Their ids, each with the definition that it is about, if it is about one.
        since: For each definition, the instant from which on its runs have to be there.
        resumed: The definitions that somebody began to deal with before, and did not finish.
        settling: Those of them that were finished, and are only looked at once more.
        names: Tenant and name of each, for the definition may be gone, or another.
        tenants: The tenants that were written.
        everything: Whether only a sweep will do.
    """

    at: datetime
    notes: dict[int, UUID | None]
    since: dict[UUID, datetime]
    resumed: frozenset[UUID]
    settling: frozenset[UUID]
    names: frozenset[tuple[str, str]]
    tenants: frozenset[str]
    everything: bool

    def joined_with(self, other: Work) -> Work:
        """Return both as one; of a definition that both name, the earlier instant counts."""
        since = self.since | other.since
        for key in self.since.keys() & other.since.keys():
            since[key] = min(self.since[key], other.since[key])
        return Work(
            at=min(self.at, other.at),
            notes=self.notes | other.notes,
            since=since,
            resumed=self.resumed | other.resumed,
            settling=other.settling - self.since.keys(),
            names=self.names | other.names,
            tenants=self.tenants | other.tenants,
            everything=self.everything or other.everything,
        )


async def begin(engine: AsyncEngine, limit: int = 2000) -> Work | None:
    """Take the oldest notes, mark them as begun, and return them; None if there are none.

    The mark outlives a crash: whoever finds it makes up for what the crash left undone.
    """
    async with AsyncSession(engine) as session, session.begin():
        # Locked, so that of two who take them at once the second finds the mark of the first.
        due = select(Change).where(Change.due_at <= func.clock_timestamp())
        oldest = due.order_by(Change.id).limit(limit).with_for_update()
        notes = list(await session.scalars(oldest))
        if not notes:
            return None
        # The database's clock, as in every other instant that is stored.
        now = await session.scalar(select(func.clock_timestamp()))
        assert now is not None
        fresh = [note.id for note in notes if note.started_at is None]
        await session.execute(update(Change).where(_any(fresh)).values(started_at=now))
        return _work(notes, now)


def _work(notes: Iterable[Change], now: datetime) -> Work:
    notes = list(notes)
    since: dict[UUID, datetime] = {}
    for note in notes:
        if note.definition_id is not None:
            began = note.started_at or now
            since[note.definition_id] = min(began, since.get(note.definition_id, began))
    resumed = {note.definition_id for note in notes if _was_begun(note, now)}
    return Work(
        at=now,
        notes={note.id: note.definition_id for note in notes},
        since=since,
        resumed=frozenset(one for one in resumed if one),
        settling=frozenset(since)
        - {note.definition_id for note in notes if note.operation != SETTLE},
        names=frozenset((note.tenant, note.name) for note in notes if note.tenant and note.name),
        tenants=frozenset(note.tenant for note in notes if note.tenant and not note.name),
        everything=any(note.tenant is None for note in notes),
    )


def _was_begun(note: Change, now: datetime) -> bool:
    return note.started_at is not None and note.started_at < now


async def note(
    engine: AsyncEngine, operation: str, subjects: Collection[tuple[str, str, UUID]]
) -> Work:
    """Note what is about to be written for another reason than a change of the row.

    The notes are begun at once, so that a crash is made up for like any other.

    Args:
        engine: The database.
        operation: The reason: `drift`, or `time` where a definition's own time has come.
        subjects: Tenant, name and id of each definition.
    """
    async with AsyncSession(engine) as session, session.begin():
        now = await session.scalar(select(func.clock_timestamp()))
        rows = [
            {
                "operation": operation,
                "tenant": tenant,
                "name": name,
                "definition_id": definition_id,
                "started_at": now,
            }
            for tenant, name, definition_id in subjects
        ]
        assert now is not None
        if not rows:
            return _work([], now)
        notes = await session.scalars(insert(Change).returning(Change), rows)
        return _work(notes, now)


@dataclass(frozen=True)
class Look:
    """That something was written, and is to be looked at once more.

    Attributes:
        operation: `settle` for a mere look, else why its runs have to be made.
        written_at: From when on its runs have to be there.
        due_at: When to look.
    """

    operation: str
    tenant: str
    name: str
    definition_id: UUID
    written_at: datetime
    due_at: datetime


async def finish(engine: AsyncEngine, notes: Iterable[int], looks: Sequence[Look] = ()) -> None:
    """Delete notes that have been dealt with, and note what to look at once more."""
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(delete(Change).where(_any(notes)))
        rows = [
            {
                "operation": look.operation,
                "tenant": look.tenant,
                "name": look.name,
                "definition_id": look.definition_id,
                "started_at": look.written_at,
                "due_at": look.due_at,
            }
            for look in looks
        ]
        if rows:
            await session.execute(insert(Change), rows)


async def tenants(engine: AsyncEngine) -> dict[str, bool]:
    """Return the tenants that were written and not dealt with, and whether each is suspended."""
    async with AsyncSession(engine) as session:
        found = await session.execute(
            select(Tenant.slug, Tenant.suspended)
            .join(Change, Change.tenant == Tenant.slug)
            .where(Change.name.is_(None))
            .distinct()
        )
        return {slug: suspended for slug, suspended in found}  # noqa: C416 - for its types


async def next_due(engine: AsyncEngine) -> float | None:
    """Return in how many seconds the next note is due; None if there is none."""
    async with AsyncSession(engine) as session:
        found = await session.execute(select(func.min(Change.due_at), func.clock_timestamp()))
        due_at, now = found.one()
        return None if due_at is None else (due_at - now).total_seconds()


@asynccontextmanager
async def exclusively(engine: AsyncEngine, patience_seconds: int = 60) -> AsyncIterator[None]:
    """Hold the right to write to Prefect, so that no two processes make one deployment twice.

    Raises:
        sqlalchemy.exc.DBAPIError: Another process has held it for all of `patience_seconds`.
    """
    async with engine.connect() as connection:
        await connection.execute(text(f"set lock_timeout = '{int(patience_seconds)}s'"))
        await connection.execute(select(func.pg_advisory_lock(_WRITER)))
        try:
            yield
        finally:
            await connection.execute(select(func.pg_advisory_unlock(_WRITER)))
            await connection.execute(text("reset lock_timeout"))
            await connection.commit()


async def waiting(engine: AsyncEngine) -> int:
    """Count the notes that nobody has dealt with, not those of a mere second look."""
    async with AsyncSession(engine) as session:
        written = Change.operation != SETTLE
        return await session.scalar(select(func.count()).where(written)) or 0


def _any(ids: Iterable[int]) -> ColumnElement[bool]:
    return Change.id == func.any(list(ids))
