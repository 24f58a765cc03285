"""Jobs are given runs in Prefect, and what becomes of those is written back.

1. The queue of each tenant's jobs is given the tenant's limit, and stopped where it is held. This
   goes on beside the rest, and waits for none of it.
2. What somebody wants cancelled is cancelled in Prefect.
3. The first of the queued jobs are given a run each; more of them as those end.
4. Jobs whose run has ended without a word, was cancelled, or is gone are ended or queued again.

Each step looks at what is there and does what is missing, so it can be killed anywhere and done
twice. How many jobs run at once is decided by `store.jobs.start`; the queue's limit only spares
runs that would have to wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.gateway import Gateway, PrefectRefused, PrefectUnavailable
from deployments.spec import jobs_queue
from store import dispatch, jobs
from store.dispatch import Lane, Seen, Waiting
from store.settings import Settings
from store.work import Job

logger = logging.getLogger("rota")

AHEAD = 50
"""Queued jobs that have a run beyond those that may run. With all of them, every poll of a worker
would read its way through them to what else is due."""

EACH, AT_ONCE = 10, 20
"""Runs that are made in one step: for one tenant, and in all. Cancellations, which are looked at
in between, are not to wait for long."""

STEP = timedelta(days=30)
"""How much earlier a run is due for each step of its job's priority: Prefect starts what is due
first. One that has waited so long comes before newer ones of the next priority."""

SETTLE_SECONDS = 2.0
"""Seconds between two looks at what became of runs."""

QUEUES_SECONDS = 30.0
"""Seconds for which queues are taken to be as they were set."""

LIVE_SECONDS, IDLE_SECONDS = 1.0, 3.0
"""Until the next look if nobody says that there is something: with jobs, and without."""

NOT_ALLOWED = "NotAllowed"
"""The state of a run that came to a worker which runs no commands."""

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Dispatcher:
    """Keeps jobs and their runs in step."""

    def __init__(self, engine: AsyncEngine, gateway: Gateway, settings: Settings) -> None:
        self._engine = engine
        self._gateway = gateway
        self._settings = settings
        self._queues: dict[tuple[str, str], tuple[int, bool]] = {}
        self._read_at = self._settled_at = float("-inf")
        self._turn = 0

    async def step(self) -> float:
        """Do what is to be done now; return in how many seconds to look again at the latest.

        Raises:
            deployments.gateway.PrefectError, OSError, sqlalchemy.exc.DBAPIError: Somebody is away.
        """
        lanes = await dispatch.lanes(self._engine)
        for lane in lanes:
            if not lane.defined:  # it went in the moment in which the first of them came
                await dispatch.define(self._engine, lane.tenant)
        await self._cancel()
        more = await self._make_runs(lanes)
        await self._settle()
        if more:
            return 0.0
        return LIVE_SECONDS if lanes else IDLE_SECONDS

    # -- queues

    async def set_queues(self) -> float:
        """Give the queues their limits, and hold them; return in how many seconds to look again.

        Nothing else writes what is known of the queues, so it may go on beside `step`.

        Raises:
            deployments.gateway.PrefectError, OSError, sqlalchemy.exc.DBAPIError: Somebody is away.
        """
        lanes = await dispatch.lanes(self._engine)
        wanted = {
            self._queue(lane): (lane.limit, not lane.open)
            for lane in lanes
            if lane.deployment_id is not None
        }
        if wanted.keys() - self._queues.keys() or monotonic() - self._read_at > QUEUES_SECONDS:
            names = sorted({name for _, name in wanted})
            self._queues = {
                (one["work_pool_name"], one["name"]): (
                    one["concurrency_limit"],
                    one["is_paused"],
                )
                for one in await self._gateway.queues_named(names)
            }
            self._read_at = monotonic()
        for key, (limit, paused) in wanted.items():
            # Those that are not there come with their deployment.
            if key in self._queues and self._queues[key] != (limit, paused):
                body = {"concurrency_limit": limit, "is_paused": paused}
                with _one_s_own(f"the queue {key[1]}"):
                    await self._gateway.change_queue(*key, body)
                    self._queues[key] = (limit, paused)
        return LIVE_SECONDS if lanes else IDLE_SECONDS

    def _queue(self, one: Lane | Seen) -> tuple[str, str]:
        return one.work_pool or self._settings.work_pool, jobs_queue(one.tenant)

    # -- runs

    async def _make_runs(self, lanes: list[Lane]) -> bool:
        """Give some of the first in line their runs; return whether others still have none."""
        chosen: list[tuple[Lane, Waiting]] = []
        more = False
        self._turn += 1  # with another tenant first each time
        first = self._turn % max(len(lanes), 1)
        for lane in [*lanes[first:], *lanes[:first]]:
            # Without its queue, it would be started without a limit, and wait in a worker.
            known = self._queue(lane) in self._queues
            if lane.deployment_id is None or not lane.open or not known:
                continue
            waiting = await dispatch.without_run(self._engine, lane.tenant, lane.limit + AHEAD)
            room = min(EACH, AT_ONCE - len(chosen))
            chosen += [(lane, job) for job in waiting[:room]]
            more = more or len(waiting) > room
        turns = asyncio.Semaphore(self._settings.concurrency)

        async def make(lane: Lane, job: Waiting) -> bool:
            async with turns:
                return await self._make_run(str(lane.deployment_id), job)

        made = await asyncio.gather(*(make(lane, job) for lane, job in chosen))
        return more and any(made)

    async def _make_run(self, deployment_id: str, job: Waiting) -> bool:
        with _one_s_own(f"the job {job.name!r}"):
            made = await self._gateway.create_run(
                deployment_id,
                {"job": str(job.id), "attempt": job.attempt},
                f"job:{job.id}:{job.attempt}",
                _due(job.queued_at, job.priority),
                name=job.name,
            )
            await dispatch.give_run(self._engine, job, UUID(made["id"]))
            return True
        return False

    # -- what became of them

    async def _cancel(self) -> None:
        async for page in self._pages(urgent=True):
            found = await self._runs(page)
            for seen in page:
                await self._look(seen, found.get(seen.run_id))

    async def _settle(self) -> None:
        if monotonic() - self._settled_at < SETTLE_SECONDS:
            return
        async for page in self._pages(urgent=False):
            found = await self._runs(page)
            for seen in page:
                if not seen.to_cancel:
                    await self._look(seen, found.get(seen.run_id))
        self._settled_at = monotonic()

    async def _pages(self, *, urgent: bool) -> AsyncIterator[list[Seen]]:
        last = None
        while page := await dispatch.watched(self._engine, last, urgent=urgent):
            yield page
            if len(page) < dispatch.PAGE:
                return
            last = page[-1].id

    async def _runs(self, page: list[Seen]) -> dict[UUID, dict[str, Any]]:
        chosen = {"id": {"any_": [str(seen.run_id) for seen in page]}}
        found = await self._gateway.runs_where(chosen, "ID_DESC", dispatch.PAGE)
        return {UUID(run["id"]): run for run in found}

    async def _look(self, seen: Seen, run: dict[str, Any] | None) -> None:
        """Do what follows from the state of a job's run."""
        state = run["state_type"] if run is not None else "GONE"
        if seen.to_cancel and state not in (*FINAL, "GONE"):
            if state != "CANCELLING":
                with _one_s_own(f"the run {seen.run_id}"):
                    await self._gateway.cancel_run(str(seen.run_id))
            return
        if run is not None and state not in FINAL and await self._is_elsewhere(seen, run):
            async with dispatch.unchanged(self._engine, seen) as job:
                if job is not None:
                    jobs.again(job)
            with _one_s_own(f"the run {seen.run_id}"):
                await self._gateway.cancel_run(str(seen.run_id))  # or it ends when it asks
            return
        if run is not None and state == "SCHEDULED" and seen.status == "queued":
            await self._pass_on(seen, run)
            return
        if state in (*FINAL, "GONE") or (state == "SCHEDULED" and seen.status == "running"):
            async with dispatch.unchanged(self._engine, seen) as job:
                if job is not None:
                    _settle(job, seen, state, run)

    async def _pass_on(self, seen: Seen, run: dict[str, Any]) -> None:
        """Let a job say why its run was put off."""
        said = run["state"]["message"]
        if run["state_name"] == NOT_ALLOWED and seen.error != said:
            async with dispatch.unchanged(self._engine, seen) as job:
                if job is not None:
                    job.error = said

    async def _is_elsewhere(self, seen: Seen, run: dict[str, Any]) -> bool:
        """Whether a job that waits has its run in a pool that its deployment has left."""
        pool, name = self._queue(seen)
        known = (pool, name) in self._queues
        if seen.status != "queued" or not known or run["work_pool_name"] == pool:
            return False
        # What the row asks for may not be carried out yet, or have a problem: the next run would
        # be made where this one is.
        with _one_s_own(f"the deployment of the run {seen.run_id}"):
            deployment = await self._gateway.deployment(run["deployment_id"])
            return bool(deployment["work_pool_name"] == pool)
        return False


def _settle(job: Job, seen: Seen, state: str, run: dict[str, Any] | None) -> None:
    """Write what follows for a job from its run's end, or from its being handed back."""
    begun = seen.status == "running"
    if seen.to_cancel or state == "CANCELLED":
        jobs.close(job, "cancelled")
    elif state == "SCHEDULED":  # the same run starts it again, if it may
        if jobs.lose(job, jobs.LOST):
            job.status, job.execution = "queued", None
    elif not begun and state == "GONE":
        jobs.again(job)
    elif not begun and state != "CRASHED":
        job.error = _said(run)
        jobs.close(job, "failed")
    elif jobs.lose(job, f"its run ended as {state.lower()} without reporting it"):
        jobs.again(job)


@contextmanager
def _one_s_own(what: str) -> Iterator[None]:
    """Let what Prefect refuses for one thing's own reasons not hold up the others."""
    try:
        yield
    except PrefectRefused as refused:
        # What is gone comes again with a sweep, or is gone for good.
        logger.log(
            logging.DEBUG if refused.status == 404 else logging.WARNING, _SAID, what, refused
        )
    except PrefectUnavailable as error:
        if error.away:
            raise
        logger.warning(_SAID, what, error)


_SAID = "Jobs: %s: %s"


def _due(queued_at: datetime, priority: int) -> datetime:
    return queued_at - priority * STEP


def _said(run: dict[str, Any] | None) -> str:
    state = (run or {}).get("state") or {}
    message = state.get("message") or "it did not say why"
    return f"Its run ended as {state.get('name', 'gone')} before it began: {message}"[:2000]
