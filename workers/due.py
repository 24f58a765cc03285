"""Which runs of a pool are due, as far as its limits and its queues allow.

Prefect's own poll writes to every deployment of the pool each time it is asked. This one only
reads; the claim that follows decides who runs what.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from datetime import timedelta
from itertools import count
from urllib.parse import quote
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
    WorkQueueFilter,
    WorkQueueFilterId,
    WorkQueueFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkPool, WorkQueue
from prefect.client.schemas.sorting import FlowRunSort
from prefect.types._datetime import now

FRESH = 0.5
"""Seconds for which a queue is taken to be as it was read: so soon does a pause take hold."""
PAGE = 200
PAGES = 10
"""How far to look behind runs that may not start. Those of queues that are paused or full count
once: behind the first page, these are left out."""

_BEGUN = FlowRunFilterState(
    type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
)


class Due:
    """The runs of a pool that fall due soon, and whether they may start."""

    def __init__(self, client: PrefectClient, pool: str, queues: Collection[str]) -> None:
        self._client = client
        self._pool_name = pool
        self._pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
        self._names = sorted(queues)
        self._queues: dict[UUID, WorkQueue] = {}
        self._read_at: dict[UUID, float] = {}
        self._reading = asyncio.Lock()

    async def find(self, ahead: float, room: int, pool: WorkPool) -> list[FlowRun]:
        """Return at most `room` runs due within `ahead` seconds, those that come first first.

        Left out are runs of paused queues, and what the limits of the pool and of its queues have
        no room for.
        """
        found: dict[UUID, FlowRun] = {}
        left = await self._pools_room(pool)
        names, offset = self._names, 0
        for _ in range(PAGES):
            page = await self._page(ahead, names, offset)
            # What retries in its own process is that process's to start.
            mine = [
                run
                for run in page
                if run.id not in found and run.empirical_policy.retry_type != "in_process"
            ]
            await self._read_queues(mine)
            open_ones = sorted(filter(self.open, mine), key=self._order)
            chosen = await self._within_limits(open_ones, left)
            found |= {run.id: run for run in chosen}
            if len(page) < PAGE or len(found) >= room or left.get(None, 1) <= 0:
                break
            offset += PAGE
            if len(chosen) < len(mine) and (fewer := await self._with_room(left)) != names:
                names, offset = fewer, 0
                if not names:
                    break
        return [*found.values()][:room]

    async def _page(self, ahead: float, names: list[str], offset: int) -> list[FlowRun]:
        return await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
                next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(
                    before_=now("UTC") + timedelta(seconds=ahead)
                ),
            ),
            work_pool_filter=self._pool,
            # The runs' own column is empty where their deployment names no queue.
            work_queue_filter=WorkQueueFilter(name=WorkQueueFilterName(any_=names))
            if names
            else None,
            sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC,
            limit=PAGE,
            offset=offset,
        )

    async def _with_room(self, left: dict[UUID | None, int]) -> list[str]:
        """Return the names of the queues that let something through, beyond what is chosen.

        Prefect has no filter for all queues but some.
        """
        path = f"/work_pools/{quote(self._pool_name, safe='')}/queues/filter"
        names: list[str] = []
        for offset in count(0, PAGE):
            body = {"limit": PAGE, "offset": offset}
            answer = await self._client.request("POST", path, json=body)  # type: ignore[arg-type]
            page = answer.json()
            for queue in page:
                limit = queue["concurrency_limit"]
                full = limit is not None and queue["active_slots"] >= limit
                full = full or left.get(UUID(queue["id"]), 1) <= 0
                if not full and not queue["is_paused"]:
                    names.append(queue["name"])
            if len(page) < PAGE:
                break
        return [name for name in names if not self._names or name in self._names]

    def _order(self, run: FlowRun) -> tuple[bool, int, float]:
        """Sort what is overdue by its queue's priority, and everything by its time."""
        queue = self._queues.get(run.work_queue_id) if run.work_queue_id else None
        due = due_at(run)
        late = due <= now("UTC").timestamp()
        return (not late, queue.priority or 0 if queue is not None and late else 0, due)

    async def _read_queues(self, runs: Collection[FlowRun]) -> None:
        async with self._reading:  # many runs of one queue fall due at once
            await self._read_stale(runs)

    async def _read_stale(self, runs: Collection[FlowRun]) -> None:
        moment = time.monotonic()
        wanted = {
            run.work_queue_id
            for run in runs
            if run.work_queue_id and moment - self._read_at.get(run.work_queue_id, -FRESH) >= FRESH
        }
        ids = sorted(wanted)
        for start in range(0, len(ids), PAGE):
            some = ids[start : start + PAGE]
            for queue in await self._client.read_work_queues(
                work_queue_filter=WorkQueueFilter(id=WorkQueueFilterId(any_=some)), limit=PAGE
            ):
                self._queues[queue.id] = queue
                self._read_at[queue.id] = moment

    async def refresh(self, run: FlowRun) -> None:
        """See to it that what is known of the run's queue is new enough to start it."""
        await self._read_queues([run])

    def open(self, run: FlowRun) -> bool:
        """Whether the run's queue lets runs through."""
        queue = self._queues.get(run.work_queue_id) if run.work_queue_id else None
        return queue is None or not queue.is_paused

    def limit(self, run: FlowRun) -> int | None:
        """Return how many runs of this one's queue may be under way at once."""
        queue = self._queues.get(run.work_queue_id) if run.work_queue_id else None
        return queue.concurrency_limit if queue is not None else None

    async def _pools_room(self, pool: WorkPool) -> dict[UUID | None, int]:
        if pool.concurrency_limit is None:
            return {}
        taken = await self._client.count_flow_runs(
            flow_run_filter=FlowRunFilter(state=_BEGUN), work_pool_filter=self._pool
        )
        return {None: pool.concurrency_limit - taken}

    async def _within_limits(
        self, runs: list[FlowRun], left: dict[UUID | None, int]
    ) -> list[FlowRun]:
        """Choose the runs for which there is room `left`, and take it."""
        chosen = []
        for run in runs:
            queue, limit = run.work_queue_id, self.limit(run)
            if queue is not None and limit is not None and queue not in left:
                left[queue] = limit - await self._begun(queue)
            keys = [key for key in {None, queue} if key in left]
            if all(left[key] > 0 for key in keys):
                left.update({key: left[key] - 1 for key in keys})
                chosen.append(run)
        return chosen

    async def _begun(self, queue: UUID) -> int:
        return await self._client.count_flow_runs(
            flow_run_filter=FlowRunFilter(state=_BEGUN),
            work_queue_filter=WorkQueueFilter(id=WorkQueueFilterId(any_=[queue])),
        )

    async def overtaken(self, run: FlowRun, pool: WorkPool) -> bool:
        """Whether a limit was passed by this run's claim, and by none before it; or it is paused.

        Two workers may each have found room for one more, and a claim may take a while.
        """
        await self.refresh(run)
        if not self.open(run):
            return True
        limits: list[tuple[int, WorkQueueFilter | None]] = []
        if pool.concurrency_limit is not None:
            limits.append((pool.concurrency_limit, None))
        queue_limit = self.limit(run)
        if queue_limit is not None and run.work_queue_id is not None:
            queue = WorkQueueFilter(id=WorkQueueFilterId(any_=[run.work_queue_id]))
            limits.append((queue_limit, queue))
        for limit, queue_filter in limits:
            begun = await self._client.read_flow_runs(
                flow_run_filter=FlowRunFilter(state=_BEGUN),
                work_pool_filter=self._pool,
                work_queue_filter=queue_filter,
                limit=PAGE,
            )
            if len(begun) > limit:
                # Running ones were first; among the claimed, the earlier claim.
                first = sorted(begun, key=_claimed_at)[:limit]
                if run.id not in {one.id for one in first}:
                    return True
        return False

    async def cancelling(self) -> list[FlowRun]:
        """Return the pool's runs that somebody wants cancelled."""
        wanted = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLING]))
        return await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=wanted), work_pool_filter=self._pool, limit=PAGE
        )


def due_at(run: FlowRun) -> float:
    """Return when the run is due, in seconds since 1970, in UTC."""
    due = run.next_scheduled_start_time or run.expected_start_time
    return due.timestamp() if due is not None else 0.0


def _claimed_at(run: FlowRun) -> tuple[bool, float, str]:
    assert run.state is not None
    return (run.state.is_pending(), run.state.timestamp.timestamp(), str(run.id))
