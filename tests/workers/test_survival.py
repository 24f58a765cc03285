"""What is left when a process dies, freezes, or is asked to stop, at the worst moment."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import ConcurrencyOptions, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

pytestmark = [pytest.mark.acceptance, pytest.mark.wall_clock, pytest.mark.timeout(420)]

ROTA_WORKER = (str(Path(sys.executable).with_name("rota")), "worker")
FOUND = 45  # seconds within which a dead worker's runs are found, and start again


async def at_rest(yard: Any) -> None:
    """Asserts that no run is claimed or under way."""
    left = await yard.client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(
                type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
            )
        ),
    )
    assert not [run.id for run in left if run.work_pool_name == yard.pool]


async def test_sigterm_lets_runs_end_and_hands_back_those_that_do_not(yard: Any) -> None:
    first = yard.start(ROTA_WORKER_GRACE_SECONDS="3").ready()
    short = await yard.run("wait", {"seconds": 2}, times=5)
    long = await yard.run("wait", {"seconds": 8}, times=5)
    sync = await yard.run("wait_sync", {"seconds": 8})
    await yard.noted("began", [*short, *long, *sync])
    asked = time.monotonic()
    first.send(signal.SIGTERM)
    await asyncio.sleep(0.5)
    after = await yard.run("trivial")
    assert await asyncio.to_thread(first.process.wait, 20) == 0
    assert time.monotonic() - asked < 10
    assert set((await yard.states(short)).values()) == {"Completed"}
    assert set((await yard.states([*long, *sync, *after])).values()) <= {"Scheduled", "Late"}
    for id_ in long:  # they keep their place among those that wait
        run = await yard.client.read_flow_run(id_)
        assert run.next_scheduled_start_time == run.expected_start_time
    assert {id_ for _, id_, _ in yard.notes("cleaned")} >= {str(id_) for id_ in [*long, *sync]}
    assert await yard.client.read_workers_for_work_pool(yard.pool) == []

    yard.start().ready()
    runs = await yard.until([*long, *sync, *after], seconds=30)
    assert {run.state.name for run in runs} == {"Completed"}
    await at_rest(yard)


async def test_rota_worker_keeps_its_grace_period(yard: Any) -> None:
    worker = yard.start("--grace", "1", command=ROTA_WORKER).ready()
    runs = await yard.run("wait")
    await yard.noted("began", runs)
    began = time.monotonic()
    worker.send(signal.SIGTERM)
    assert await asyncio.to_thread(worker.process.wait, 20) == 0
    assert 1 <= time.monotonic() - began < 8
    assert set((await yard.states(runs)).values()) <= {"Scheduled", "Late"}


async def test_a_second_signal_ends_it_at_once(yard: Any) -> None:
    worker = yard.start().ready()
    await yard.noted("began", await yard.run("wait"))
    worker.send(signal.SIGTERM)
    await asyncio.to_thread(worker.says, "taking nothing new")
    began = time.monotonic()
    worker.send(signal.SIGTERM)
    await asyncio.to_thread(worker.process.wait, 5)
    assert time.monotonic() - began < 1


async def test_what_a_dead_worker_left_starts_again(yard: Any) -> None:
    worker = yard.start().ready()
    apart = await yard.run("wait", {"seconds": 20}, job_variables={"isolation": "process"})
    await yard.noted("began", apart)
    running = await yard.run("wait", {"seconds": 5})
    retrying = await yard.run("retry")
    forbidden = await yard.run("wait", job_variables={"restart": False})
    slot = await yard.run(
        "wait",
        {"seconds": 5},
        concurrency_limit=1,
        concurrency_options=ConcurrencyOptions(collision_strategy="CANCEL_NEW"),
    )
    await yard.noted("began", [*running, *retrying, *forbidden, *slot, *apart])
    await yard.until(retrying, {"AwaitingRetry"})
    children = [p for p in psutil.process_iter(["pid"]) if p.pid in _pids(worker)]
    assert children
    killed = time.monotonic()
    at = time.time()
    worker.kill()
    psutil.wait_procs(children, timeout=5)
    assert not [child for child in children if child.is_running()], "a run outlived its worker"

    yard.start().ready()
    ended = await yard.until([*running, *slot], seconds=FOUND + 10)
    assert {run.state.name for run in ended} == {"Completed"}
    again = [when for _, id_, when in yard.notes("began") if id_ == str(running[0]) and when > at]
    assert again[0] - at < FOUND
    [crashed] = await yard.until(forbidden)
    assert crashed.state.name == "Crashed"
    assert "does not let it start again" in crashed.state.message
    await yard.until(apart, {"Running", "Completed"}, seconds=30)
    await yard.until(retrying, {"AwaitingRetry", "Running"}, seconds=70)
    assert time.monotonic() - killed < 120


def _pids(worker: Any) -> set[int]:
    return {child.pid for child in worker.usage.children(recursive=True)}


async def test_killed_ten_times_with_twenty_runs_in_flight(yard: Any) -> None:
    chance = random.Random(20261121)
    worker = yard.start().ready()
    runs = await yard.run("wait", {"seconds": 6}, times=12)
    runs += await yard.run("wait_sync", {"seconds": 6}, times=4)
    runs += await yard.run("third_time", times=4)
    await yard.noted("began", runs)
    killed = []
    for _ in range(10):
        await asyncio.sleep(chance.uniform(0, 2))
        worker.kill()
        killed.append(time.time())
        worker = yard.start()
        runs += await yard.run("trivial")
        if chance.random() < 0.7:
            await asyncio.to_thread(worker.ready)
    ended = await yard.until(runs, seconds=90)
    assert Counter(run.state.name for run in ended) == {"Completed": len(runs)}
    _never_at_once(yard, killed)
    await at_rest(yard)


def _never_at_once(yard: Any, killed: list[float]) -> None:
    """Asserts that a run began again only after a worker had been killed."""
    begun: dict[str, list[float]] = {}
    for _, id_, at in yard.notes("began"):
        begun.setdefault(id_, []).append(at)
    for times in begun.values():
        for first, second in pairwise(times):
            if second - first > 2:  # not an attempt of a flow that retries at once
                assert any(first < one < second for one in killed), (times, killed)


async def test_two_workers_share_the_load_and_one_is_killed(yard: Any) -> None:
    first, second = yard.start(), yard.start()
    await asyncio.gather(asyncio.to_thread(first.ready), asyncio.to_thread(second.ready))
    runs = await yard.run("wait", {"seconds": 2}, times=30)
    await asyncio.sleep(2.5)
    killed = time.time()
    first.kill()
    runs += await yard.run("wait", {"seconds": 1}, times=20)
    ended = await yard.until(runs, seconds=90)
    assert Counter(run.state.name for run in ended) == {"Completed": len(runs)}
    seen = Counter(id_ for _, id_, _ in yard.notes("ended"))
    assert set(seen) == {str(id_) for id_ in runs}
    _never_at_once(yard, [killed])
    await at_rest(yard)


async def test_a_frozen_worker_gives_up_what_was_taken_from_it(yard: Any) -> None:
    frozen = yard.start().ready()
    runs = await yard.run("wait", {"seconds": 50}, times=3)
    runs += await yard.run("wait", {"seconds": 50}, job_variables={"isolation": "process"})
    await yard.noted("began", runs)
    other = yard.start().ready()
    apart = frozen.usage.children(recursive=True)
    assert apart
    frozen.send(signal.SIGSTOP)
    try:
        await asyncio.to_thread(other.says, "starts again", FOUND)
        await yard.again(runs, 20)
    finally:
        frozen.send(signal.SIGCONT)
    await yard.noted("stopped", runs[:3])
    gone, _ = await asyncio.to_thread(psutil.wait_procs, apart, 20)
    assert set(gone) == set(apart), "the run in a process of its own went on beside its successor"
    assert set((await yard.states(runs)).values()) == {"Running"}
    assert set(Counter(id_ for _, id_, _ in yard.notes("began")).values()) == {2}


@pytest.fixture
async def mortal(
    short_home: Path,
    unused_port: int,
    new_yard: Callable[..., Any],
    start_prefect: Callable[[Path, int], "subprocess.Popen[bytes]"],
    end_group: Callable[..., None],
) -> AsyncIterator[Any]:
    """Yields a pool on a server of its own, which `yard.server` may be killed and started."""
    url = f"http://127.0.0.1:{unused_port}/api"
    server = [await asyncio.to_thread(start_prefect, short_home, unused_port)]

    def kill() -> None:
        end_group(server[0], signal.SIGKILL)

    def start() -> None:
        server[0] = start_prefect(short_home, unused_port)

    with temporary_settings(updates={PREFECT_API_URL: url}):
        async with get_client() as client:
            yard = new_yard(client, url)
            yard.kill_server, yard.start_server = kill, start
            try:
                yield yard
            finally:
                yard.end()
                end_group(server[0], signal.SIGKILL)


async def test_the_server_is_killed_and_comes_back(mortal: Any) -> None:
    yard = mortal
    worker = await asyncio.to_thread(yard.start().ready)
    short = await yard.run("wait", {"seconds": 5}, times=5)
    long = await yard.run("wait", {"seconds": 45}, times=5)
    sync = await yard.run("wait_sync", {"seconds": 5}, times=2)
    await yard.noted("began", [*short, *long, *sync])
    yard.kill_server()
    await asyncio.sleep(30)  # longer than a lease, and than the shorter of the flows
    assert worker.process.poll() is None
    with pytest.raises(httpx.HTTPError):
        async with httpx.AsyncClient() as client:
            await client.get(yard.url + "/health")
    await asyncio.to_thread(yard.start_server)
    after = await yard.run("trivial", times=3)
    ended = await yard.until([*short, *long, *sync, *after], seconds=60)
    assert Counter(run.state.name for run in ended) == {"Completed": len(ended)}
    begun = Counter(id_ for _, id_, _ in yard.notes("began"))
    assert set(begun.values()) == {1}, "a run was run twice"
    await at_rest(yard)


async def test_sigterm_ends_a_worker_whose_server_is_away(mortal: Any) -> None:
    worker = await asyncio.to_thread(mortal.start(ROTA_WORKER_GRACE_SECONDS="1").ready)
    runs = await mortal.run("wait", times=3)
    runs += await mortal.run("wait_sync")
    await mortal.noted("began", runs)
    mortal.kill_server()
    worker.send(signal.SIGTERM)
    assert await asyncio.to_thread(worker.process.wait, 25) == 0
    assert {id_ for _, id_, _ in mortal.notes("cleaned")} == set(map(str, runs))
