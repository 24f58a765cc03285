"""How many calls a run costs. The number is not to grow unseen."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from benchmarks.proxy import Counts, counting

pytestmark = pytest.mark.acceptance

RUNS = 40


@pytest.fixture
async def counted(
    prefect_server: str, new_yard: Callable[..., Any]
) -> AsyncIterator[tuple[Any, Counts]]:
    """Yields a pool with a worker, and the calls that the worker has made."""
    with counting(prefect_server) as (url, counts):
        async with get_client() as client:
            yard = new_yard(client, url)
            await asyncio.to_thread(yard.start().ready)
            yield yard, counts
            yard.end()


async def test_a_run_costs_a_claim_a_beginning_and_an_end(counted: tuple[Any, Counts]) -> None:
    yard, counts = counted
    await yard.until(await yard.run("trivial"))
    before, began = Counter(counts.calls), time.monotonic()
    await yard.until(await yard.run("trivial", times=RUNS))
    await asyncio.sleep(1)
    spent = Counter(counts.calls) - before
    seconds = time.monotonic() - began
    assert spent.pop("POST /flow_runs/ID/set_state") == 3 * RUNS
    # What is left is a matter of time, not of runs: polls, beats, and looks at who else lives.
    of_time = {
        "POST /flow_runs/filter",
        "POST /work_queues/filter",
        "POST /deployments/filter",
        "POST /logs/",
        "GET /admin/storage",
        "GET /csrf-token",
        f"GET /work_pools/{yard.pool}",
        f"POST /work_pools/{yard.pool}/workers/heartbeat",
        f"POST /work_pools/{yard.pool}/workers/filter",
    }
    assert set(spent) <= of_time
    assert spent.total() < 5 + 4 * seconds, (spent, seconds)


async def test_an_idle_worker_writes_nothing_but_its_heartbeat(
    counted: tuple[Any, Counts],
) -> None:
    yard, counts = counted
    await asyncio.sleep(2)
    before = Counter(counts.writes)
    await asyncio.sleep(12)
    written = Counter(counts.writes) - before
    assert set(written) <= {f"POST /work_pools/{yard.pool}/workers/heartbeat"}
