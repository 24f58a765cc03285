"""Following the database, and keeping Prefect in step.

Any number of processes may watch; one leads, by an advisory lock that dies with its connection.
The leader sweeps once, then waits for whatever comes first: a note (LISTEN/NOTIFY), a
definition's own time, the next sweep, the next look at what has run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments import explain
from deployments.counting import count_runs
from deployments.desired import build_for, next_run
from deployments.gateway import Gateway, PrefectError
from deployments.jobs import Dispatcher
from deployments.policy import Policy, sync
from deployments.reconcile import MANY, Reconciler, Report
from deployments.relative import wait_for_runs
from deployments.schedule import InvalidSchedule
from store import changes, database, dispatch, roster, status
from store.changes import Work
from store.models import Definition
from store.settings import Settings

logger = logging.getLogger("rota")

_LEADER = 0x526F7461_0003

FOLLOW_SECONDS = 3.0
"""How often a follower asks for the lead."""

HEARTBEAT_SECONDS = 4.0
STALE_SECONDS = 12.0
"""A leader that has not been heard of for so long is frozen: its connection is ended."""

POLL_SECONDS = 10.0
"""How often the notes are looked at although nothing was notified."""

JOBS_SECONDS = 0.1
"""The least that passes between two looks at the jobs."""

NAP_SECONDS = 1.0
LONGEST_NAP_SECONDS = 15.0

AWAY = (PrefectError, *database.AWAY)
"""What passes by itself when the other side comes back."""


class Lead:
    """The lead, for as long as its connection lives."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.noted = asyncio.Event()
        self.heard = asyncio.Event()
        self.jobs = asyncio.Event()
        self.limits = asyncio.Event()
        self.gone = asyncio.Event()

    def wake(self, *_: object) -> None:
        """Say that there is something to do."""
        self.noted.set()
        self.heard.set()
        self.wake_jobs()

    def wake_jobs(self, *_: object) -> None:
        """Say that there is something to do about jobs."""
        self.jobs.set()
        self.limits.set()

    def lose(self, *_: object) -> None:
        """Say that the connection has ended."""
        self.gone.set()
        self.noted.set()

    @property
    def lost(self) -> bool:
        """Whether the connection, and with it the lead, is gone."""
        return bool(self.connection.is_closed())


@asynccontextmanager
async def lead(address: URL, engine: AsyncEngine) -> AsyncIterator[Lead | None]:
    """Yield the lead, or None if another process has it.

    Raises:
        OSError, asyncpg.PostgresError: The database is away.
    """
    connection = await database.connect(address)
    try:
        if not await connection.fetchval("select pg_try_advisory_lock($1)", _LEADER):
            await _end_if_frozen(connection, engine)
            yield None
            return
        held = Lead(connection)
        await connection.add_listener(changes.CHANNEL, held.wake)
        await connection.add_listener(dispatch.CHANNEL, held.wake_jobs)
        connection.add_termination_listener(held.lose)
        await status.mark(engine, "watch", _self())
        yield held
    finally:
        with suppress(*AWAY, TimeoutError):
            await connection.close(timeout=2)


async def _end_if_frozen(connection: asyncpg.Connection, engine: AsyncEngine) -> None:
    found = await status.marked(engine, "watch")
    if found is None or found[0] < timedelta(seconds=STALE_SECONDS):
        return
    # All of its connections: it may have been frozen while it held the right to write. Another
    # database of the same server may have a leader of its own.
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and "
        "datname = current_database() and application_name in (select application_name from "
        "pg_stat_activity join pg_locks using (pid) where locktype = 'advisory' and granted and "
        "objsubid = 1 and datname = current_database() and "
        "database = (select oid from pg_database where datname = current_database()) and "
        "(classid::bigint << 32) + objid::bigint = $1)",
        _LEADER,
    )
    logger.warning("The leader %s had not been heard of for %s; its lead was ended.", *found[::-1])


def _self() -> dict[str, object]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


class Watch:
    """One process that watches; `run` goes on until it is cancelled."""

    def __init__(
        self,
        address: URL,
        engine: AsyncEngine,
        gateway: Gateway,
        settings: Settings,
        policy: Policy = sync,
    ) -> None:
        self.address = address
        self.engine = engine
        self.gateway = gateway
        self.settings = settings
        self.reconciler = Reconciler(engine, gateway, settings, policy)
        self.dispatcher = Dispatcher(engine, gateway, settings)
        self._alarms: dict[UUID, tuple[str, str, datetime]] = {}

    async def run(self) -> None:
        """Lead whenever nobody else does, and outlive whatever is away for a while."""
        said = False
        while True:
            try:
                async with lead(self.address, self.engine) as held:
                    if held is not None:
                        logger.info("This process leads.")
                        await self._lead_until_lost(held)
                        logger.warning("The lead is lost.")
                    elif not said:
                        logger.info("Another process leads; this one stands by.")
                        said = True
            except AWAY as error:
                logger.warning("%s; trying again.", _reason(error))
            # Followers that ask at one moment would go on to ask at one moment.
            await asyncio.sleep(FOLLOW_SECONDS * random.uniform(0.7, 1))  # noqa: S311

    async def _lead_until_lost(self, held: Lead) -> None:
        """Lead, and leave off in the middle of whatever it is when somebody else does."""
        leading = asyncio.create_task(self._lead(held))
        lost = asyncio.create_task(held.gone.wait())
        try:
            await asyncio.wait({leading, lost}, return_when=asyncio.FIRST_COMPLETED)
            if leading.done():
                await leading
        finally:
            leading.cancel()
            lost.cancel()
            await asyncio.gather(leading, lost, return_exceptions=True)

    async def _lead(self, held: Lead) -> None:
        async with (
            _in_background(self._beat),
            _in_background(self._tell),
            _in_background(partial(self._heed, held)),
            _in_background(partial(self._step, held.limits, self.dispatcher.set_queues)),
            _in_background(partial(self._step, held.jobs, self.dispatcher.step)),
        ):
            nap = NAP_SECONDS
            sweep_at = datetime.now(UTC)
            while not held.lost:
                held.noted.clear()
                try:
                    finished = await self._deal_with_notes()
                    if datetime.now(UTC) >= sweep_at:
                        finished = await self._sweep() and finished
                        sweep_at = datetime.now(UTC) + self._sweep_interval
                    due_at = await self._next_note()
                except AWAY as error:
                    logger.warning("%s; trying again in %.0f s.", _reason(error), nap)
                    finished = False
                except Exception:  # what a row or an answer may bring about is no reason to end
                    logger.exception("Something unforeseen; trying again in %.0f s.", nap)
                    finished = False
                if finished:
                    nap = NAP_SECONDS
                    await self._wait(held, min(sweep_at, self._next_alarm, due_at))
                elif not held.lost:
                    await self._wait(held, datetime.now(UTC) + timedelta(seconds=nap))
                    nap = min(nap * 2, LONGEST_NAP_SECONDS)

    async def _next_note(self) -> datetime:
        left = await changes.next_due(self.engine)
        return datetime.now(UTC) + timedelta(seconds=POLL_SECONDS if left is None else left)

    @property
    def _sweep_interval(self) -> timedelta:
        return timedelta(seconds=self.settings.sweep_seconds)

    async def _wait(self, held: Lead, until: datetime) -> None:
        seconds = (until - datetime.now(UTC)).total_seconds()
        with suppress(TimeoutError):
            await asyncio.wait_for(held.noted.wait(), max(0, min(seconds, POLL_SECONDS)))

    async def _deal_with_notes(self) -> bool:
        """Deal with all notes there are; return whether none of them has to be tried again."""
        await self._note_alarms(datetime.now(UTC))
        finished = True
        while finished and (work := await changes.begin(self.engine)):
            if work.everything or len(work.since) > MANY:
                finished = await self._sweep(work)
            else:
                report = await self.reconciler.deal_with(work)
                finished = self._tell_of(report)
        return finished

    async def _sweep(self, noted: Work | None = None) -> bool:
        report = await self.reconciler.sweep(noted=noted)
        self._alarms.clear()
        finished = self._tell_of(report, drift=True)
        done = [one for one in report.outcomes if not one.error]
        await status.mark(self.engine, "sweep", {"mended": len(done)})
        return finished

    def _tell_of(self, report: Report, drift: bool = False) -> bool:
        for line in explain.lines(report.comparison.plan.changes):
            logger.info("%s%s", "drift: " if drift else "", line)
        for outcome in report.outcomes:
            if outcome.error and not outcome.error.startswith("not tried"):
                logger.warning("%s: %s: %s", outcome.reference, outcome.action, outcome.error)
        self._set_alarms(report)
        return not report.unfinished

    # -- a definition's own times

    def _set_alarms(self, report: Report) -> None:
        wanted = report.comparison.desired.wanted
        for definition in report.comparison.roster.definitions:
            self._alarms.pop(definition.id, None)
            one = wanted.get(str(definition.id))
            if one and one.changes_at:
                self._alarms[definition.id] = (definition.tenant, definition.name, one.changes_at)

    @property
    def _next_alarm(self) -> datetime:
        # A moment later, so that the occurrence at that very instant counts as past.
        return min(
            (at + timedelta(milliseconds=10) for _, _, at in self._alarms.values()),
            default=datetime.max.replace(tzinfo=UTC),
        )

    async def _note_alarms(self, at: datetime) -> None:
        due = [
            (tenant, name, key) for key, (tenant, name, when) in self._alarms.items() if when < at
        ]
        if due:
            await changes.note(self.engine, "time", due)
            for _, _, key in due:
                del self._alarms[key]

    # -- in the background

    async def _beat(self) -> None:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        await status.mark(self.engine, "watch", _self())

    async def _heed(self, held: Lead) -> None:
        """Stop and resume the queues of tenants at once, whatever else is being dealt with."""
        with suppress(TimeoutError):
            await asyncio.wait_for(held.heard.wait(), POLL_SECONDS)
        held.heard.clear()
        await self.reconciler.heed()

    async def _step(self, noted: asyncio.Event, step: Callable[[], Awaitable[float]]) -> None:
        """Do one part of what is to be done about jobs, and wait until there is more."""
        noted.clear()
        seconds = await step()
        await asyncio.sleep(JOBS_SECONDS)  # what comes at once is dealt with at once
        with suppress(TimeoutError):
            await asyncio.wait_for(noted.wait(), seconds)

    async def _tell(self) -> None:
        """Let the rows know what has run, and what runs next."""
        await asyncio.sleep(self.settings.status_seconds)
        await count_runs(self.engine, self.gateway)
        await wait_for_runs(self.engine, self.gateway, datetime.now(UTC))
        await refresh_next_runs(self.engine, datetime.now(UTC))


async def refresh_next_runs(engine: AsyncEngine, at: datetime) -> None:
    """Move `next_run_at` on where it has passed, as of `at` (UTC and aware)."""
    suspended = (await roster.read(engine, [])).suspended
    rows = [
        {"id": one.id, "next_run_at": _next_run(one, suspended, at)}
        for one in await status.due(engine, at)
    ]
    await status.record(engine, rows)


def _next_run(definition: Definition, suspended: frozenset[str], at: datetime) -> datetime | None:
    try:
        return next_run(definition, build_for(definition), suspended, at)
    except InvalidSchedule:  # written since; its note is on the way
        return None


@asynccontextmanager
async def _in_background(step: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Repeat `step` beside the block; what passes by itself is said and outlived."""

    async def repeat() -> None:
        while True:
            try:
                await step()
            except AWAY as error:
                logger.debug("%s", _reason(error))
                await asyncio.sleep(NAP_SECONDS)
            except Exception:  # or it would end unseen
                logger.exception("Something unforeseen beside the notes; trying again.")
                await asyncio.sleep(LONGEST_NAP_SECONDS)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    first = str(cause).strip().splitlines()
    return first[0] if first else type(cause).__name__
