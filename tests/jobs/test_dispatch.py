"""What `watch` makes of jobs in Prefect, and of Prefect's runs in the jobs."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.actions import WorkPoolCreate

from deployments import jobs
from deployments.gateway import PrefectRefused
from store import jobs as stored


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SETTLE_SECONDS", 0.0)


async def ready(shop: Any) -> Any:
    """Makes the deployment of a tenant whose jobs have not begun, and returns a dispatcher."""
    await shop.settle()
    return shop.dispatcher()


async def step(dispatcher: Any) -> float:
    """Takes both steps, which `watch` takes beside each other."""
    await dispatcher.set_queues()
    return await dispatcher.step()  # type: ignore[no-any-return]


async def begin(shop: Any, name: str, **said: Any) -> stored.Start:
    row = await shop.row(name)
    said = {"run_id": row["run_id"], "attempt": row["attempt"], "execution": uuid4(), **said}
    started = await stored.start(shop.rota.engine, shop.tenant, row["id"], **said)
    assert started is not None
    assert started.decision == "go"
    return started


async def test_each_queued_job_gets_one_run_named_like_it(shop):
    for name in ("one", "two"):
        await shop.queue(name)
    dispatcher = await ready(shop)

    await step(dispatcher)
    await step(dispatcher)

    runs = await shop.runs()
    assert sorted(run["name"] for run in runs) == ["one", "two"]
    assert {run["parameters"]["job"] for run in runs} == {
        str((await shop.row(name))["id"]) for name in ("one", "two")
    }
    assert {UUID(run["id"]) for run in runs} == {
        (await shop.row(name))["run_id"] for name in ("one", "two")
    }


async def test_a_crash_between_the_run_and_its_note_makes_no_second_run(shop):
    await shop.queue("one")
    dispatcher = await ready(shop)
    await step(dispatcher)
    made = (await shop.row("one"))["run_id"]
    await shop.sql.execute("update jobs set run_id = null, watched = false")

    await step(shop.dispatcher())

    assert len(await shop.runs()) == 1
    assert (await shop.row("one"))["run_id"] == made


async def test_runs_are_due_in_the_order_of_priority_and_age(shop):
    now = datetime.fromisoformat("2026-03-01T07:00:00Z")
    for number, (name, priority) in enumerate((("c", 0), ("d", 0), ("b", 5), ("a", 9))):
        at = now + timedelta(minutes=number)
        await shop.queue(name, priority=priority, queued_at=at)

    await step(await ready(shop))

    assert [run["name"] for run in await shop.runs()] == ["a", "b", "c", "d"]


async def test_only_the_first_in_line_have_runs_and_who_comes_first_has_one_at_once(
    shop, monkeypatch
):
    monkeypatch.setattr(jobs, "AHEAD", 2)
    await shop.set_limit(1)
    for number in range(6):
        await shop.queue(f"j{number}")
    dispatcher = await ready(shop)
    await step(dispatcher)
    assert [run["name"] for run in await shop.runs()] == ["j0", "j1", "j2"]

    await shop.queue("urgent", priority=9)
    await step(dispatcher)
    assert [run["name"] for run in await shop.runs()] == ["urgent", "j0", "j1", "j2"]

    await shop.sql.execute("update jobs set status = 'cancelled' where name in ('j0', 'urgent')")
    await step(dispatcher)
    names = {run["name"] for run in await shop.runs() if run["state_type"] == "SCHEDULED"}
    assert names == {"j1", "j2", "j3"}


async def test_a_tenant_with_many_jobs_leaves_room_for_another(shop, monkeypatch):
    monkeypatch.setattr(jobs, "EACH", 2)
    monkeypatch.setattr(jobs, "AT_ONCE", 3)
    for number in range(4):
        await shop.queue(f"j{number}")
    other = f"{shop.tenant}-b"
    await shop.rota.add_tenant(other)
    await shop.sql.execute(
        "insert into jobs (tenant, name, command) values ($1, 'k0', 'true'), ($1, 'k1', 'true')",
        other,
    )
    dispatcher = await ready(shop)

    async def with_run() -> list[int]:
        rows = await shop.sql.fetch(
            "select tenant, count(run_id) as runs from jobs group by tenant order by tenant"
        )
        return [row["runs"] for row in rows]

    assert await step(dispatcher) == 0
    assert sorted(await with_run()) == [1, 2]
    assert await step(dispatcher) == 0
    assert min(await with_run()) >= 2
    await step(dispatcher)
    assert await step(dispatcher) == jobs.LIVE_SECONDS
    assert await with_run() == [4, 2]


async def test_what_prefect_refuses_for_one_job_does_not_hold_up_the_others(shop, monkeypatch):
    for name in ("bad", "good"):
        await shop.queue(name)
    dispatcher = await ready(shop)
    create = shop.gateway.create_run

    async def refuse_one(*said: Any, name: str, **options: Any) -> Any:
        if name == "bad":
            raise PrefectRefused(422, "not this one")
        return await create(*said, name=name, **options)

    monkeypatch.setattr(shop.gateway, "create_run", refuse_one)
    await step(dispatcher)

    assert [run["name"] for run in await shop.runs()] == ["good"]


async def test_the_queue_of_jobs_has_the_limit_and_the_tenant_s_own_has_none(shop):
    await shop.queue("one")
    await shop.sql.execute(
        "insert into definitions (tenant, name, duty, parameters) values "
        "($1, 'other', 'workflow_run', '{\"workflow_id\": \"x\"}')",
        shop.tenant,
    )
    dispatcher = await ready(shop)

    async def queues() -> dict[str, tuple[int | None, bool]]:
        names = [shop.tenant, f"{shop.tenant}.jobs"]
        found = await shop.gateway.queues_named(names)
        return {one["name"]: (one["concurrency_limit"], one["is_paused"]) for one in found}

    await step(dispatcher)
    assert await queues() == {shop.tenant: (None, False), f"{shop.tenant}.jobs": (2, False)}

    await shop.set_limit(7)
    await step(dispatcher)
    assert (await queues())[f"{shop.tenant}.jobs"] == (7, False)

    await shop.sql.execute("update tenants set suspended = true")
    await step(dispatcher)
    assert (await queues())[f"{shop.tenant}.jobs"] == (7, True)

    await shop.sql.execute("update tenants set suspended = false")
    await shop.settle()  # resumes the tenant's own queue, and not that of its jobs
    await shop.sql.execute("update definitions set enabled = false where name = 'jobs'")
    await step(dispatcher)
    assert (await queues())[f"{shop.tenant}.jobs"] == (7, True)

    await shop.sql.execute("update definitions set enabled = true where name = 'jobs'")
    await shop.set_limit(0)
    await step(dispatcher)
    assert (await queues())[f"{shop.tenant}.jobs"] == (0, False)


async def test_a_limit_changed_in_prefect_s_ui_is_set_right(shop, monkeypatch):
    monkeypatch.setattr(jobs, "QUEUES_SECONDS", 0.0)
    await shop.queue("one")
    dispatcher = await ready(shop)
    await step(dispatcher)
    queue = f"{shop.tenant}.jobs"
    await shop.gateway.change_queue(shop.yard.pool, queue, {"concurrency_limit": 99})

    await step(dispatcher)

    [found] = await shop.gateway.queues_named([queue])
    assert found["concurrency_limit"] == 2


async def test_a_limit_and_a_pause_wait_for_no_run_that_is_being_made(shop, monkeypatch):
    asked, go_on = asyncio.Event(), asyncio.Event()
    create = shop.gateway.create_run

    async def slowly(*said: Any, **options: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await create(*said, **options)

    monkeypatch.setattr(shop.gateway, "create_run", slowly)

    async def until(limit: int, paused: bool) -> None:
        async with asyncio.timeout(20):
            while True:
                [queue] = await shop.gateway.queues_named([f"{shop.tenant}.jobs"])
                if (queue["concurrency_limit"], queue["is_paused"]) == (limit, paused):
                    return
                await asyncio.sleep(0.05)

    await shop.queue("one")
    shop.watch()
    async with asyncio.timeout(20):
        await asked.wait()

    await shop.set_limit(7)
    await until(7, False)
    await shop.sql.execute("update definitions set enabled = false where name = 'jobs'")
    await until(7, True)
    assert await shop.runs() == []

    go_on.set()
    await shop.wait(lambda row: row["run_id"] is not None, "one")


async def test_held_jobs_get_no_runs_until_they_may(shop):
    await shop.queue("one")
    dispatcher = await ready(shop)
    await shop.sql.execute("update definitions set paused_until = 'infinity'")

    await step(dispatcher)
    assert await shop.runs() == []

    await shop.sql.execute("update definitions set paused_until = null")
    await step(dispatcher)
    assert len(await shop.runs()) == 1


async def test_a_job_before_its_deployment_waits_for_it(shop):
    await shop.queue("one")

    assert await step(shop.dispatcher()) == jobs.LIVE_SECONDS
    assert (await shop.row("one"))["run_id"] is None


async def test_nothing_is_asked_of_prefect_where_nothing_is_queued(shop):
    assert await step(shop.dispatcher()) == jobs.IDLE_SECONDS


async def test_a_job_cancelled_in_the_table_is_cancelled_in_prefect(shop):
    await shop.queue("one")
    dispatcher = await ready(shop)
    await step(dispatcher)
    await shop.sql.execute("update jobs set status = 'cancelled'")

    await step(dispatcher)
    assert (await shop.run_of("one"))["state_type"] == "CANCELLED"

    await step(dispatcher)
    row = await shop.row("one")
    assert (row["status"], row["watched"]) == ("cancelled", False)


async def test_a_job_cancelled_in_the_ui_is_cancelled_in_the_table(shop):
    for name in ("waiting", "running"):
        await shop.queue(name)
    dispatcher = await ready(shop)
    await step(dispatcher)
    await begin(shop, "running")
    for name in ("waiting", "running"):
        await shop.set_state(name, "CANCELLED")

    await step(dispatcher)

    for name in ("waiting", "running"):
        row = await shop.row(name)
        assert (row["status"], row["watched"]) == ("cancelled", False)


@pytest.mark.parametrize("state", ["CRASHED", "FAILED", "COMPLETED", "GONE"])
@pytest.mark.parametrize("on_lost", ["requeue", "fail"])
async def test_a_running_job_whose_run_has_ended_without_a_word_is_queued_again_or_failed(
    shop, state, on_lost
):
    await shop.queue("one", on_lost=on_lost)
    dispatcher = await ready(shop)
    await step(dispatcher)
    await begin(shop, "one")
    first = (await shop.row("one"))["run_id"]
    if state == "GONE":
        await shop.prefect.delete_flow_run(first)
    else:
        await shop.set_state("one", state)

    await step(dispatcher)

    row = await shop.row("one")
    if on_lost == "fail":
        said = f"its run ended as {state.lower()} without reporting it"
        assert (row["status"], row["error"], row["watched"]) == ("failed", said, False)
        return
    assert (row["status"], row["attempt"], row["run_id"]) == ("queued", 2, None)
    await step(dispatcher)
    assert (await shop.row("one"))["run_id"] not in (None, first)
    await begin(shop, "one")


async def test_a_job_that_is_handed_back_is_queued_again_in_the_same_run(shop):
    await shop.queue("one")
    dispatcher = await ready(shop)
    await step(dispatcher)
    await begin(shop, "one")
    await shop.set_state("one", "SCHEDULED")
    before = await shop.row("one")
    assert (await shop.run_of("one"))["state_type"] == "SCHEDULED"

    await step(dispatcher)

    row = await shop.row("one")
    assert (row["status"], row["attempt"]) == ("queued", 1)
    assert row["run_id"] == before["run_id"]
    await begin(shop, "one")


async def test_a_run_that_failed_before_the_job_began_fails_the_job_and_says_why(shop):
    await shop.queue("one")
    dispatcher = await ready(shop)
    await step(dispatcher)
    await shop.set_state("one", "FAILED", message="This worker does not run commands.")

    await step(dispatcher)

    row = await shop.row("one")
    assert row["status"] == "failed"
    assert row["error"] == (
        "Its run ended as Failed before it began: This worker does not run commands."
    )


async def test_a_queued_job_whose_run_was_deleted_gets_another(shop):
    await shop.queue("one")
    dispatcher = await ready(shop)
    await step(dispatcher)
    first = (await shop.row("one"))["run_id"]
    await shop.prefect.delete_flow_run(first)

    await step(dispatcher)
    await step(dispatcher)

    row = await shop.row("one")
    assert (row["status"], row["attempt"], row["losses"]) == ("queued", 2, 0)
    assert row["run_id"] not in (None, first)


async def test_a_job_that_is_under_way_is_left_alone(shop):
    for name in ("waiting", "claimed", "running"):
        await shop.queue(name)
    dispatcher = await ready(shop)
    await step(dispatcher)
    await shop.set_state("claimed", "PENDING")
    await begin(shop, "running")
    await shop.set_state("running", "RUNNING")
    before = [await shop.row(name) for name in ("waiting", "claimed", "running")]

    await step(dispatcher)

    assert [await shop.row(name) for name in ("waiting", "claimed", "running")] == before


async def test_what_became_of_a_job_meanwhile_counts_more_than_what_was_seen(shop):
    """Its end is written while its run's state is being read."""
    await shop.queue("one")
    dispatcher = await ready(shop)
    await step(dispatcher)
    started = await begin(shop, "one")
    await shop.set_state("one", "FAILED")
    read = dispatcher._runs

    async def and_finish(page: Any) -> Any:
        found = await read(page)
        end = stored.End(exit_code=0)
        assert started.job.execution is not None
        await stored.finish(
            shop.rota.engine, shop.tenant, started.job.id, started.job.execution, end
        )
        return found

    dispatcher._runs = and_finish
    await step(dispatcher)

    assert (await shop.row("one"))["status"] == "completed"


async def test_a_definition_that_was_deleted_comes_back_with_the_next_job(shop):
    await shop.queue("one")
    dispatcher = await ready(shop)
    await shop.sql.execute("update jobs set status = 'cancelled'")
    await shop.sql.execute("delete from definitions where name = 'jobs'")
    await shop.settle()
    await step(dispatcher)

    await shop.queue("two")
    await shop.settle()
    await step(dispatcher)

    assert [run["name"] for run in await shop.runs()] == ["two"]


async def test_a_definition_that_went_while_the_first_job_came_is_made_again(shop):
    await shop.queue("one")
    await shop.sql.execute("truncate definitions")
    dispatcher = await ready(shop)
    await step(dispatcher)

    await shop.settle()
    await step(dispatcher)

    assert [run["name"] for run in await shop.runs()] == ["one"]


async def test_jobs_that_wait_go_with_their_definition_to_another_pool(shop):
    for name in ("waiting", "running"):
        await shop.queue(name)
    dispatcher = await ready(shop)
    await step(dispatcher)
    await begin(shop, "running")
    await shop.set_state("running", "RUNNING")
    before = {name: await shop.row(name) for name in ("waiting", "running")}
    pool = f"{shop.yard.pool}-b"
    await shop.prefect.create_work_pool(WorkPoolCreate(name=pool, type="inline"))
    await shop.sql.execute("update definitions set work_pool = $1 where name = 'jobs'", pool)
    await step(dispatcher)
    assert await shop.row("waiting") == before["waiting"]

    await shop.settle()
    await step(dispatcher)
    await step(dispatcher)

    left = await shop.gateway.run(str(before["waiting"]["run_id"]))
    assert left["state_type"] == "CANCELLED"
    assert (await shop.run_of("waiting"))["work_pool_name"] == pool
    row = await shop.row("waiting")
    assert (row["status"], row["attempt"], row["losses"]) == ("queued", 2, 0)
    assert row["queued_at"] == before["waiting"]["queued_at"]
    assert await shop.row("running") == before["running"]
    await begin(shop, "waiting")


async def test_jobs_stay_where_their_deployment_is_while_the_row_has_a_problem(shop):
    await shop.queue("waiting")
    dispatcher = await ready(shop)
    await step(dispatcher)
    pool = f"{shop.yard.pool}-c"
    await shop.prefect.create_work_pool(WorkPoolCreate(name=pool, type="inline"))
    await shop.sql.execute("update definitions set work_pool = $1 where name = 'jobs'", pool)
    await shop.settle()
    for _ in range(2):
        await step(dispatcher)

    await shop.sql.execute(
        "update definitions set work_pool = null, parameters = $1 where name = 'jobs'",
        '{"nonsense": 1}',
    )
    await shop.settle()
    before = await shop.row("waiting")
    for _ in range(3):
        await step(dispatcher)

    assert before["run_id"] is not None
    assert await shop.row("waiting") == before
