"""Which workers live, and what becomes of the runs of those that do not.

A worker's record in Prefect is its lease: it is renewed at every beat, and its name ends in the
incarnation of the process, so that a worker is told from the one that it takes the place of. The
states that a worker gives a run carry that name.

    claimed ──> Pending "On worker rota-up-3f9c2a1b."
    begun   ──> Running "On worker rota-up-3f9c2a1b."
    lease runs out, or the record is gone
            ──> Scheduled, for whoever claims it first, or Crashed

One worker at a time looks for what the dead have left: the first of the living, by name. It reads
a run again before it touches it. Prefect has no compare-and-set; should this worker freeze between
the two calls for longer than its own lease, a run could start twice.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, Worker
from prefect.exceptions import Abort, ObjectNotFound
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelled, Crashed, Scheduled
from prefect.types._datetime import now
from prefect.utilities.engine import propose_state

from workers.run import MARK

BEAT = 5.0
"""Seconds between two beats."""
LEASE = 20.0
"""Seconds without a beat after which a worker counts as dead."""
SETTLED = 12.0
"""Seconds for which the server must have answered every beat before anybody is declared dead:
after it was away, everybody's lease has run out."""
RESTARTS = 20
"""Claims after which a run is no longer started again: it may be what kills the workers."""
PUT_OFF = "rota.put_off"
"""The label that says how many claims only put the run off."""

_MARK = re.compile(rf"^{MARK}(.+-[0-9a-f]{{8}})\.$")
_PAGE = 200


def mark(worker: str) -> str:
    """Return the message of the states that `worker` gives a run."""
    return f"{MARK}{worker}."


def clock() -> float:
    """Return seconds that go on while the machine is suspended, where it can tell."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Lease:
    """One worker's lease, and its eye on the others'."""

    def __init__(
        self,
        client: PrefectClient,
        pool: str,
        worker: str,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        may_restart: Callable[[FlowRun], Any],
    ) -> None:
        self._client = client
        self._pool = pool
        self.worker = worker
        self.mark = mark(worker)
        self._logger = logger
        self._may_restart = may_restart
        self._beaten = clock()
        self._since = clock()
        self._owners: dict[UUID, str | None] = {}

    def in_doubt(self) -> bool:
        """Whether the lease may have run out."""
        return clock() - self._beaten > LEASE - BEAT

    async def beat(self) -> None:
        """Renew the lease.

        Raises:
            httpx.HTTPError: The server does not take it.
        """
        if clock() - self._beaten > 2 * BEAT:
            self._since = clock()
        await self._client.send_worker_heartbeat(
            self._pool, self.worker, heartbeat_interval_seconds=BEAT
        )
        self._beaten = clock()

    async def give_up(self) -> None:
        """Take the lease back: this worker has nothing left to lose."""
        await self._delete(self.worker)

    async def look_after(self, owned: Callable[[], Collection[UUID]]) -> None:
        """See to the runs of the dead, if it is this worker's turn.

        Args:
            owned: Gives the runs that this process knows of at the moment.

        Raises:
            httpx.HTTPError: The server does not answer.
        """
        if clock() - self._since < SETTLED:
            return
        # The runs first: whoever claimed one of them had a lease by then.
        runs = await self._begun(owned())
        workers = await self._workers()
        mine = next((one for one in workers if one.name == self.worker), None)
        if mine is None or mine.last_heartbeat_time is None:
            return
        limit = mine.last_heartbeat_time - timedelta(seconds=LEASE)
        alive = {one.name for one in workers if _beat_of(one) > limit}
        first = min(name for name in alive if _MARK.match(mark(name))) == self.worker
        self._owners = {run.id: self._owners[run.id] for run in runs if run.id in self._owners}
        left = False
        for run in runs:
            owner = await self._owner(run)
            # One that it claimed and does not know: the answer to the claim never came.
            mislaid = owner == self.worker and run.id not in owned()
            if mislaid or (first and owner is not None and owner not in alive):
                assert owner is not None
                left = not await self._take_over(run, owner) or left
        if first and not left:
            for one in workers:
                if one.name not in alive and _MARK.match(mark(one.name)):
                    await self._delete(one.name)

    async def _begun(self, own: Collection[UUID]) -> list[FlowRun]:
        """Return the pool's runs that somebody has claimed and not ended."""
        begun = FlowRunFilterState(
            type=FlowRunFilterStateType(
                any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
            )
        )
        waiting = FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]),
            name=FlowRunFilterStateName(any_=["AwaitingRetry"]),
        )
        found: list[FlowRun] = []
        for state in (begun, waiting):
            offset = 0
            while page := await self._client.read_flow_runs(
                flow_run_filter=FlowRunFilter(
                    state=state, id=FlowRunFilterId(not_any_=list(own)) if own else None
                ),
                work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool])),
                limit=_PAGE,
                offset=offset,
            ):
                found += page
                offset += len(page)
                if len(page) < _PAGE:
                    break
        return [
            run
            for run in found
            if run.state is not None
            and (not run.state.is_scheduled() or run.empirical_policy.retry_type == "in_process")
        ]

    async def _workers(self) -> list[Worker]:
        found: list[Worker] = []
        while page := await self._client.read_workers_for_work_pool(
            self._pool, offset=len(found), limit=_PAGE
        ):
            found += page
            if len(page) < _PAGE:
                break
        return found

    async def _owner(self, run: FlowRun) -> str | None:
        """Return the name of the worker that claimed a run; None if it was not one of these."""
        assert run.state is not None
        if owned := _MARK.match(run.state.message or ""):
            return owned[1]
        if run.id not in self._owners:
            self._owners[run.id] = await self._claimed_by(run)
        return self._owners[run.id]

    async def is_anothers(self, run: FlowRun) -> bool:
        """Whether another worker was the last to claim a run."""
        return await self._claimed_by(run) not in (self.worker, None)

    async def _claimed_by(self, run: FlowRun) -> str | None:
        states = await self._client.read_flow_run_states(run.id)
        return next((m[1] for m in map(_marked, states[::-1]) if m), None)

    async def _take_over(self, seen: FlowRun, owner: str) -> bool:
        """Start a dead worker's run again, or end it; whether that is done."""
        try:
            run = await self._client.read_flow_run(seen.id)
            if run.state is None or seen.state is None or run.state.id != seen.state.id:
                return False
            state = await self._verdict(run, owner)
            if state.is_scheduled():
                await _restore(self._client, run)
            await propose_state(self._client, state, run.id, force=state.is_cancelled())
        except (ObjectNotFound, Abort):
            return True
        flow_run_logger(run).warning("%s (%s)", state.message, state.name)
        self._logger.warning("Run %s: %s (%s)", run.id, state.message, state.name)
        return True

    async def _verdict(self, run: FlowRun, owner: str) -> State[Any]:
        assert run.state is not None
        reason = f"Its worker {owner} ended before it did"
        if run.state.is_cancelling():
            return Cancelled(message=f"{reason}.")
        if not run.state.is_pending() and not await self._may_restart(run):
            return Crashed(message=f"{reason}, and its definition does not let it start again.")
        states = await self._client.read_flow_run_states(run.id)
        claims = sum(state.is_pending() and _marked(state) is not None for state in states)
        put_off = run.labels.get(PUT_OFF)
        if claims - (put_off if isinstance(put_off, int) else 0) > RESTARTS:
            return Crashed(message=f"{reason}, for the {RESTARTS + 1}th time.")
        due = run.state.state_details.scheduled_time if run.state.is_scheduled() else None
        return Scheduled(scheduled_time=due or _place(run), message=f"{reason}; it starts again.")

    async def _delete(self, worker: str) -> None:
        path = f"/work_pools/{quote(self._pool, safe='')}/workers/{quote(worker, safe='')}"
        try:
            await self._client.request("DELETE", path)  # type: ignore[arg-type]
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise


async def hand_back(client: PrefectClient, run: FlowRun, reason: str) -> None:
    """Put a run back among those that are due, for any worker to claim."""
    due = run.state.state_details.scheduled_time if run.state is not None else None
    await _restore(client, run)
    state: State[Any] = Scheduled(scheduled_time=due or _place(run), message=reason)
    await propose_state(client, state, run.id)


def _place(run: FlowRun) -> datetime:
    """Return when a run was due first: that is its place among those that wait."""
    return run.expected_start_time or now("UTC")


async def _restore(client: PrefectClient, run: FlowRun) -> None:
    """Let a run that retries be claimed like any other, and not lose an attempt by it."""
    policy = run.empirical_policy
    if policy.retries:
        policy = policy.model_copy(update={"retry_type": None, "retries": policy.retries + 1})
        await client.update_flow_run(run.id, empirical_policy=policy)


def _marked(state: State[Any]) -> re.Match[str] | None:
    return _MARK.match(state.message or "")


def _beat_of(worker: Worker) -> datetime:
    return worker.last_heartbeat_time or datetime.min.replace(tzinfo=now("UTC").tzinfo)


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait for `seconds`, or until `stopping` is set."""
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return
