"""What a worker does with runs of every kind, in its own process."""

import asyncio
import builtins
import gc
import logging
import time
import weakref
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from prefect import flow, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.exceptions import Abort
from prefect.states import Cancelling, Pending, Scheduled
from prefect.utilities.engine import propose_state

from workers.flow_loop import FlowLoop
from workers.run import Run, inline

pytestmark = [pytest.mark.acceptance, pytest.mark.wall_clock]


async def log_of(yard: Any, run: Any, what: str = "") -> str:
    """Returns what the run has logged, once `what` is in it, or in the end."""
    logged = ""
    for _ in range(100):
        found = await yard.client.read_logs(
            log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
        )
        logged = "\n".join(log.message for log in found)
        if logged and what in logged:
            break
        await asyncio.sleep(0.1)
    return logged


@pytest.mark.parametrize(
    ("flow", "parameters", "state", "message"),
    [
        ("trivial", {"name": "x"}, "Completed", ""),
        ("with_tasks", {"number": 3}, "Completed", ""),
        ("third_time", {}, "Completed", ""),
        ("wait_sync", {"seconds": 0.1}, "Completed", ""),
        ("late", {}, "TimedOut", "exceeded timeout of 1.0 second"),
        ("late_sync", {}, "TimedOut", "exceeded timeout of 1.0 second"),
        ("leave", {"how": "error"}, "Failed", "ValueError: wrong"),
        ("leave", {"how": "exit"}, "Crashed", ""),
        ("leave", {"how": "interrupt"}, "Crashed", ""),
        ("leave", {"how": "child"}, "Completed", ""),
        ("trivial", {"unknown": 1}, "Crashed", "unknown"),
        ("no_such_flow", {}, "Crashed", "no_such_flow"),
        ("note", {}, "Crashed", "is no Prefect flow but function"),
        ("uses_prefect_sync", {}, "Completed", ""),
        ("with_hooks", {}, "Completed", ""),
    ],
)
async def test_a_run_ends_as_its_flow_does(
    shared_yard: Any, flow: str, parameters: dict[str, Any], state: str, message: str
) -> None:
    runs = await shared_yard.run(flow, parameters, enforce_parameter_schema=False)
    [run] = await shared_yard.until(runs)
    assert run.state.name == state, run.state
    assert message in (run.state.message or "")
    # And the worker goes on.
    assert [r.state.name for r in await shared_yard.until(await shared_yard.run("trivial"))] == [
        "Completed"
    ]


async def test_retries_count_as_prefect_counts_them(shared_yard: Any) -> None:
    [id_] = await shared_yard.run("third_time")
    [run] = await shared_yard.until([id_])
    assert run.run_count == 3
    assert len([note for note in shared_yard.notes("began") if note[1] == str(id_)]) == 3


async def test_a_run_asked_for_now_starts_within_a_second_or_so(shared_yard: Any) -> None:
    await shared_yard.until(await shared_yard.run("trivial"))
    began = time.time()
    [id_] = await shared_yard.run("trivial")
    await shared_yard.noted("began", [id_])
    [at] = [at for _, noted, at in shared_yard.notes("began") if noted == str(id_)]
    assert at - began < 2.5


async def test_runs_start_at_their_instant_not_at_the_next_poll(shared_yard: Any) -> None:
    deployment = await shared_yard.deploy("trivial")
    first = datetime.now(UTC) + timedelta(seconds=4)
    due = [first + timedelta(seconds=0.13 * number) for number in range(20)]
    runs = [
        await shared_yard.client.create_flow_run_from_deployment(
            deployment, state=Scheduled(scheduled_time=at)
        )
        for at in due
    ]
    await shared_yard.until([run.id for run in runs])
    begun = {id_: at for _, id_, at in shared_yard.notes("began")}
    late = sorted(begun[str(run.id)] - at.timestamp() for run, at in zip(runs, due, strict=True))
    assert late[0] > -0.01, "started before its instant"
    assert late[len(late) // 2] < 0.5, late
    assert late[-1] < 2, late


@pytest.mark.parametrize("flow", ["wait", "wait_sync", "retry"])
async def test_a_cancelled_run_stops_soon_and_cleans_up(shared_yard: Any, flow: str) -> None:
    runs = await shared_yard.run(flow)
    await shared_yard.noted("began", runs)
    if flow == "retry":
        await shared_yard.until(runs, {"AwaitingRetry"})
    asked = time.monotonic()
    await shared_yard.client.set_flow_run_state(runs[0], Cancelling())
    [run] = await shared_yard.until(runs)
    assert run.state.name == "Cancelled"
    assert time.monotonic() - asked < 3
    if flow != "retry":
        assert any(id_ == str(run.id) for _, id_, _ in shared_yard.notes("cleaned"))
    await asyncio.sleep(0)
    assert not [note for note in shared_yard.notes("ended") if note[1] == str(run.id)]


async def test_a_flow_that_blocks_the_loop_is_named_and_holds_up_no_heartbeat(
    shared_yard: Any,
) -> None:
    [id_] = await shared_yard.run("block", {"seconds": 9})
    await shared_yard.noted("began", [id_])
    worker = shared_yard.workers[-1]
    began = time.monotonic()
    await asyncio.to_thread(worker.says, "has blocked the event loop", 5)
    assert time.monotonic() - began < 5
    assert "sample_flows.py" in worker.text()
    assert "time.sleep(seconds)" in worker.text()
    [known] = await shared_yard.client.read_workers_for_work_pool(shared_yard.pool)
    beat = known.last_heartbeat_time
    while known.last_heartbeat_time == beat:
        assert set((await shared_yard.states([id_])).values()) == {"Running"}, "no beat meanwhile"
        await asyncio.sleep(0.1)
        [known] = await shared_yard.client.read_workers_for_work_pool(shared_yard.pool)
    [run] = await shared_yard.until([id_])
    assert run.state.name == "Completed"
    assert "has blocked the event loop" in await log_of(shared_yard, id_)


async def test_a_definition_can_ask_for_a_process(shared_yard: Any) -> None:
    [here] = await shared_yard.run("where")
    [apart] = await shared_yard.run("where", job_variables={"isolation": "process"})
    [with_env] = await shared_yard.run("where", job_variables={"env": {"SOMETHING": "set"}})
    runs = await shared_yard.until([here, apart, with_env], seconds=40)
    assert [run.state.name for run in runs] == ["Completed"] * 3
    pids = {id_: what.removeprefix("pid=") for what, id_, _ in shared_yard.notes("pid=")}
    own = str(shared_yard.workers[-1].process.pid)
    assert pids[str(here)] == own
    assert own not in (pids[str(apart)], pids[str(with_env)])


async def test_a_concurrency_slot_is_freed(shared_yard: Any) -> None:
    deployment = await shared_yard.deploy(
        "wait",
        concurrency_limit=1,
        concurrency_options=ConcurrencyOptions(collision_strategy="CANCEL_NEW"),
    )
    states = []
    for seconds in (1.5, 0, 0):
        run = await shared_yard.client.create_flow_run_from_deployment(
            deployment, parameters={"seconds": seconds}
        )
        if seconds:
            await shared_yard.until([run.id], {"Running"})
            first = run.id
        else:
            [ended] = await shared_yard.until([run.id])
            states.append(ended.state.name)
            await shared_yard.until([first])
    assert states == ["Cancelled", "Completed"]


async def test_a_paused_pool_and_a_paused_queue_start_nothing(shared_yard: Any) -> None:
    queue = await shared_yard.client.create_work_queue(
        name="tenant", work_pool_name=shared_yard.pool
    )
    await shared_yard.client.update_work_queue(queue.id, is_paused=True)
    kept = await shared_yard.run("trivial", work_queue_name="tenant")
    through = await shared_yard.run("trivial")
    await shared_yard.until(through)
    assert set((await shared_yard.states(kept)).values()) <= {"Scheduled", "Late"}
    await shared_yard.client.update_work_queue(queue.id, is_paused=False)
    await shared_yard.until(kept)

    await shared_yard.client.update_work_pool(shared_yard.pool, WorkPoolUpdate(is_paused=True))
    await asyncio.sleep(7)  # the pool is looked at every five seconds
    kept = await shared_yard.run("trivial")
    await asyncio.sleep(2.5)
    assert set((await shared_yard.states(kept)).values()) <= {"Scheduled", "Late"}
    await shared_yard.client.update_work_pool(shared_yard.pool, WorkPoolUpdate(is_paused=False))
    await shared_yard.until(kept)


async def test_a_queue_limit_is_never_passed(shared_yard: Any) -> None:
    queue = await shared_yard.client.create_work_queue(
        name="narrow", work_pool_name=shared_yard.pool, concurrency_limit=2
    )
    runs = await shared_yard.run("wait", {"seconds": 1}, times=6, work_queue_name=queue.name)
    most = 0
    while len(left := set((await shared_yard.states(runs)).values()) - {"Completed"}):
        assert left <= {"Scheduled", "Late", "Pending", "Running"}
        states = list((await shared_yard.states(runs)).values())
        most = max(most, states.count("Running"))
    assert most == 2


async def test_health_tells_how_the_worker_fares(yard: Any, unused_port: int) -> None:
    worker = yard.start("--with-healthcheck", PREFECT_WORKER_WEBSERVER_PORT=str(unused_port))
    await asyncio.to_thread(worker.ready)
    [id_] = await yard.run("wait")
    await yard.noted("began", [id_])
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{unused_port}/health")
    assert answer.status_code == 200
    found = answer.json()
    assert found["message"] == "OK"
    assert found["running"] == 1
    assert found["worker"].startswith(worker.name)
    assert found["seconds_since_poll"] < 5
    assert found["loop_lag_seconds"] < 1


async def test_a_module_that_exits_ends_its_run_and_not_the_worker(shared_yard: Any) -> None:
    [id_] = await shared_yard.run("leave", entrypoint="sample_exit.anything")
    [run] = await shared_yard.until([id_])
    assert run.state.name == "Crashed"
    assert "SystemExit" in run.state.message
    await shared_yard.until(await shared_yard.run("trivial"))


async def test_runs_cancelled_behind_a_blocked_loop_are_cancelled(shared_yard: Any) -> None:
    # Claimed before the loop counts as blocked, and then stuck behind it.
    due = datetime.now(UTC) + timedelta(seconds=3)
    blocking, *runs = [
        (
            await shared_yard.client.create_flow_run_from_deployment(
                await shared_yard.deploy(flow),
                parameters=parameters,
                state=Scheduled(scheduled_time=due + timedelta(seconds=delay)),
            )
        ).id
        for flow, parameters, delay in [("block", {"seconds": 6}, 0), *[("trivial", {}, 1)] * 3]
    ]
    await shared_yard.until(runs, {"Pending"})
    for id_ in runs:
        await shared_yard.client.set_flow_run_state(id_, Cancelling())
    ended = await shared_yard.until([blocking, *runs], seconds=15)
    assert [run.state.name for run in ended] == ["Completed", *["Cancelled"] * 3]
    await shared_yard.until(await shared_yard.run("trivial"))


async def test_a_run_that_has_ended_cannot_be_claimed(shared_yard: Any) -> None:
    [id_] = await shared_yard.run("trivial")
    await shared_yard.until([id_])
    with pytest.raises(Abort):
        await propose_state(shared_yard.client, Pending(), id_)


async def test_run_once_runs_what_is_due_and_ends(yard: Any) -> None:
    runs = await yard.run("wait", {"seconds": 1}, times=3)
    worker = yard.start("--run-once")
    assert await asyncio.to_thread(worker.process.wait, 60) == 0
    assert set((await yard.states(runs)).values()) == {"Completed"}


async def test_a_full_or_paused_queue_holds_up_no_other(yard: Any) -> None:
    full = await yard.client.create_work_queue(
        name="full", work_pool_name=yard.pool, concurrency_limit=1
    )
    paused = await yard.client.create_work_queue(name="paused", work_pool_name=yard.pool)
    await yard.client.update_work_queue(paused.id, is_paused=True)
    await yard.run("wait", times=6, work_queue_name=full.name)
    await yard.run("wait", times=6, work_queue_name=paused.name)
    await asyncio.to_thread(yard.start("--limit", "3").ready)
    await yard.until(await yard.run("trivial"), seconds=15)


async def test_what_overlapping_runs_print_is_logged_to_the_end(shared_yard: Any) -> None:
    [short] = await shared_yard.run("prints", {"seconds": 1})
    [long] = await shared_yard.run("prints", {"seconds": 3})
    await shared_yard.noted("began", [short, long])
    await shared_yard.until([short], {"Completed"})
    assert set((await shared_yard.states([long])).values()) == {"Running"}
    await shared_yard.until([long], {"Completed"})
    for run in (short, long):
        assert (await log_of(shared_yard, run, "after")).count("before") == 1
        assert (await log_of(shared_yard, run, "after")).count("after") == 1


async def test_a_paused_run_goes_on_where_it_was_resumed(shared_yard: Any) -> None:
    runs = await shared_yard.run("pauses")
    await shared_yard.until(runs, {"Paused"})
    await shared_yard.client.resume_flow_run(runs[0])
    # Longer than the worker takes to look at its runs: a resumed one does not carry its mark.
    [run] = await shared_yard.until(runs)
    assert run.state.name == "Completed", run.state
    for what in ("began", "resumed"):
        assert [id_ for _, id_, _ in shared_yard.notes(what)].count(str(run.id)) == 1


async def test_a_run_that_its_own_worker_does_not_know_starts_again(shared_yard: Any) -> None:
    """The answer to a claim may be lost, when the server has taken it."""
    [known] = await shared_yard.client.read_workers_for_work_pool(shared_yard.pool)
    deployment = await shared_yard.deploy("trivial")
    due = datetime.now(UTC) + timedelta(seconds=20)
    run = await shared_yard.client.create_flow_run_from_deployment(
        deployment, state=Scheduled(scheduled_time=due)
    )
    claim = Pending(message=f"On worker {known.name}.")
    await shared_yard.client.set_flow_run_state(run.id, claim)
    [ended] = await shared_yard.until([run.id], seconds=45)
    assert ended.state.name == "Completed", ended.state
    assert ended.start_time >= due


async def test_no_run_stays_in_memory(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @flow
    async def trivial() -> None:
        return None

    # The loop puts another in its place, for as long as its process lives.
    monkeypatch.setattr(builtins, "print", print)
    flows, here = FlowLoop(logging.getLogger("test")), asyncio.get_running_loop()
    flows.open()
    kept = []
    async with get_client() as client:
        for _ in range(20):
            flow_run = await client.create_flow_run(trivial, state=Pending())
            ended = asyncio.Event()
            run = Run(
                flow_run,
                inline(trivial),
                "On worker test-00000000.",
                on_ended=partial(here.call_soon_threadsafe, ended.set),
            )
            kept.append(weakref.ref(run))
            flows.start(run)
            await ended.wait()
            del run, flow_run, ended
    flows.close()
    gc.collect()
    # The event loop's thread may still hold the last by its context.
    assert sum(one() is not None for one in kept) <= 1
