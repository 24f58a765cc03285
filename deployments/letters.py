"""Dead letters: what is kept of a run that has failed, and how it is replayed.

A replay is a new run in any case, whether Prefect still has the old one or not. Labels tell the
duty the occurrence of the old one, so that both send out the same idempotency key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from deployments import runs
from deployments.gateway import Gateway, PrefectRefused
from deployments.history import FAILED, attempts, message, who
from deployments.runs import CannotRun
from store import letters, roster
from store.letters import DeadLetter, Decided, Failure, Wanted
from store.models import Definition
from store.outcomes import Ended

OCCURRENCE = "rota.occurrence"
"""The label of a replay that says which occurrence it is for; `flows.occurrence` reads it."""

TRIGGER = "rota.trigger"
"""The one that says what made that due."""

EARLIEST, NEVER = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""What the database takes as an instant lies in between."""

LETTER = "rota.letter"
"""The one that names the dead letter."""


@dataclass(frozen=True)
class Replayed:
    """What became of many letters.

    Attributes:
        runs: The runs that were made, each with the letter that it replays.
        skipped: Letters that cannot be replayed, with the reason.
        until: When the last of the runs is due; None without any.
    """

    runs: Mapping[UUID, UUID]
    skipped: Mapping[UUID, str]
    until: datetime | None


def ended(run: Mapping[str, Any]) -> Ended | None:
    """Return what is counted and kept of a run that has ended, as Prefect has it."""
    failed = run["state_type"] in FAILED
    # What crashes before it begins has failed all the same.
    began = run["start_time"] or (run["end_time"] if failed else None)
    cancelled = run["state_type"] == "CANCELLED"
    if not (run["deployment_id"] and run["end_time"] and (began or cancelled)):
        return None
    return Ended(
        run_id=run["id"],
        deployment_id=UUID(run["deployment_id"]),
        started_at=datetime.fromisoformat(began) if began else None,
        ended_at=datetime.fromisoformat(run["end_time"]),
        state=letters.storable(run["state_name"]),
        completed=run["state_type"] == "COMPLETED",
        cancelled=cancelled,
        failure=_failure(run) if failed else None,
        due_at=datetime.fromisoformat(run["expected_start_time"])
        if who(run) == "schedule"
        else None,
    )


def _failure(run: Mapping[str, Any]) -> Failure:
    labels = run.get("labels") or {}
    occurrence = datetime.fromisoformat(run["expected_start_time"])
    trigger = "schedule" if who(run) == "schedule" else "manual"
    letter_id = None
    with suppress(KeyError, ValueError):  # somebody else may have written them
        replayed = datetime.fromisoformat(str(labels[OCCURRENCE]))
        letter_id = UUID(str(labels[LETTER]))
        occurrence = replayed
        trigger = "schedule" if labels[TRIGGER] == "schedule" else "manual"
    at = _storable(occurrence)
    return Failure(at, trigger, run["parameters"], message(run), attempts(run), letter_id)


def _storable(at: datetime) -> datetime:
    """Return the nearest instant that the database takes: one run must not hold up the others."""
    return min(max(at if at.tzinfo else at.replace(tzinfo=UTC), EARLIEST), NEVER)


async def replay(
    engine: AsyncEngine,
    gateway: Gateway,
    tenant: str,
    letter_id: UUID,
    at: datetime,
    by: str,
) -> DeadLetter | None:
    """Make a run for the occurrence of a letter, with the same parameters and the same key.

    One that has been replayed, and is not open again, stays as it is.

    Args:
        engine: The definitions database.
        gateway: Prefect.
        tenant: Whose letter it is.
        letter_id: Which.
        at: Now, when the run is due.
        by: Who asks for it.

    Returns:
        The letter, which names the run; None if there is no such letter.

    Raises:
        store.letters.Decided: It has been discarded.
        CannotRun: Its definition cannot run; the message says why.
        deployments.gateway.PrefectError: Prefect is away, or refuses the parameters.
    """
    found = await letters.get(engine, tenant, letter_id)
    if found is None:
        return None
    replays = await _Replays.of(engine, gateway, tenant, [found.definition_id], at, by)
    return await replays.make(letter_id, at)


async def replay_many(
    engine: AsyncEngine,
    gateway: Gateway,
    tenant: str,
    wanted: Wanted,
    limit: int,
    per_minute: float,
    at: datetime,
    by: str,
) -> Replayed:
    """Replay open letters, those that failed first at first, so many a minute.

    The first is due `at`, or when those are through that were replayed before. Who is killed, and
    asks again, goes on with those that are still open.

    Args:
        engine: The definitions database.
        gateway: Prefect.
        tenant: Whose.
        wanted: Which; only open ones are replayed.
        limit: The most.
        per_minute: How many fall due in a minute.
        at: Now.
        by: Who asks for it.

    Raises:
        CannotRun: The tenant is suspended.
        deployments.gateway.PrefectUnavailable: Prefect is away; some may have been replayed.
    """
    chosen = await letters.oldest(engine, tenant, wanted, limit)
    replays = await _Replays.of(engine, gateway, tenant, [one for _, one in chosen], at, by)
    if replays.suspended:
        raise _suspended(tenant)
    step = timedelta(minutes=1) / per_minute
    last = await letters.last_due(engine, tenant)
    due = at if last is None else max(at, last + step)
    made: dict[UUID, UUID] = {}
    skipped: dict[UUID, str] = {}
    until = None
    for letter_id, _ in chosen:
        try:
            one = await replays.make(letter_id, due)
        except (CannotRun, Decided, PrefectRefused) as refused:
            skipped[letter_id] = str(refused)
            continue
        # Whoever else replayed it meanwhile has given it another time.
        if one is not None and one.replay_run_id is not None and one.replay_due == due:
            made[letter_id], until, due = one.replay_run_id, due, due + step
    return Replayed(made, skipped, until)


@dataclass
class _Replays:
    """Replays of one tenant's letters, asked for at once."""

    engine: AsyncEngine
    gateway: Gateway
    tenant: str
    definitions: Mapping[UUID, Definition]
    suspended: bool
    at: datetime
    by: str
    _deployments: dict[UUID, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    async def of(
        cls,
        engine: AsyncEngine,
        gateway: Gateway,
        tenant: str,
        ids: Sequence[UUID],
        at: datetime,
        by: str,
    ) -> Self:
        found = await roster.read(engine, set(ids))
        definitions = {one.id: one for one in found.definitions}
        return cls(engine, gateway, tenant, definitions, tenant in found.suspended, at, by)

    async def make(self, letter_id: UUID, due: datetime) -> DeadLetter | None:
        async with letters.replaying(self.engine, self.tenant, letter_id, self.by) as letter:
            if letter is None or letter.status == "replayed":
                return letter
            if letter.status == "discarded":
                raise Decided(f"The dead letter {letter_id} has been discarded.")
            if self.suspended:
                raise _suspended(self.tenant)
            made = await runs.start(
                self.gateway,
                await self._deployment(letter),
                letter.parameters,
                f"rota-replay:{letter.id}:{letter.replays + 1}",
                due,
                self.by,
                {
                    OCCURRENCE: letter.occurrence.isoformat(),
                    TRIGGER: letter.trigger,
                    LETTER: str(letter.id),
                },
            )
            letter.status, letter.replays = "replayed", letter.replays + 1
            letter.replay_run_id, letter.replay_due = UUID(made["id"]), due
            letter.decided_at, letter.decided_by = self.at, self.by
            return letter

    async def _deployment(self, letter: DeadLetter) -> Mapping[str, Any]:
        row = self.definitions.get(letter.definition_id)
        if row is None:
            raise CannotRun(
                f"The definition {letter.tenant}/{letter.name} of the dead letter is gone; "
                "discard it."
            )
        if row.id in self._deployments:
            return self._deployments[row.id]
        if row.problem:
            raise CannotRun(f"The definition {row.reference} has a problem: {row.problem}")
        missing = f"The definition {row.reference} has no deployment yet; `rota watch` makes it."
        if row.deployment_id is None:
            raise CannotRun(missing)
        try:
            found = await self.gateway.deployment(str(row.deployment_id))
        except PrefectRefused as refused:
            if refused.status != 404:
                raise
            raise CannotRun(missing) from None
        self._deployments[row.id] = found
        return found


def _suspended(tenant: str) -> CannotRun:
    return CannotRun(f"The tenant {tenant} is suspended; nothing of it starts.")
