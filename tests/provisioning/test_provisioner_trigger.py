"""The duty, between a real Redis and the API that it writes to."""

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.flow_engine import run_flow_async

from blocks.provisioner import ProvisionerQueue, QueueRefused, QueueUnavailable
from blocks.records import Records, RecordsUnavailable
from flows.blocks_by_name import MissingBlock
from flows.provisioner_trigger import provisioner_trigger
from tests.prefect.conftest import Deployed

pytestmark = pytest.mark.needs("redis-server", "redis-server")

GROUP = "rota-acme"


@pytest.fixture(autouse=True)
async def stored(queue, rota, log) -> AsyncIterator[None]:
    """Stores the queue's block."""
    await queue.asave("default", overwrite=True)
    yield
    await ProvisionerQueue.adelete("default")


@pytest.fixture
def add(rota):
    """Gives what adds a server to a tenant."""

    async def add(handle, status="pending_setup", slug="acme", managed=True, since=None):
        await rota.sql.execute(
            "insert into servers (tenant, handle, provider, provider_id, public_ip, status, "
            "managed) values ($1, $2, 'time4vps', $2, '192.0.2.7', $3, $4)",
            *(slug, handle, status, managed),
        )
        if since:
            await rota.sql.execute(
                "update servers set provisioning_started_at = now() - make_interval(secs => $1) "
                "where handle = $2",
                *(since, handle),
            )

    return add


async def trigger(slug="acme", **parameters):
    return await provisioner_trigger(tenant=slug, **parameters)


async def request_of(rota, handle):
    question = "select provisioning_request from servers where handle = $1"
    return await rota.sql.fetchval(question, handle)


async def let_pass(rota, seconds):
    """Moves all claims into the past."""
    await rota.sql.execute(
        "update servers set provisioning_requested_at = provisioning_requested_at - "
        "make_interval(secs => $1)",
        seconds,
    )


# -- what goes out


async def test_a_server_that_waits_is_put_into_the_queue_and_its_status_stays(
    add, rota, provisioner
):
    await add("vps-7")
    await add("vps-8", status="reserved", managed=False)
    await add("vps-9", status="ready")

    counts = await trigger()

    [request] = await provisioner.requests()
    assert counts["published"] == 1
    assert request["server_handle"] == "vps-7"
    assert request["request_id"] == str(await request_of(rota, "vps-7"))
    assert request["callback_stream"] == "provisioner:results"
    assert (request["version"], request["force_reinstall"], request["is_recovery"]) == (
        "1",
        False,
        False,
    )
    assert (await rota.status())["vps-7"] == "pending_setup"


async def test_a_server_has_one_request_however_often_the_duty_runs(add, rota, provisioner):
    await add("vps-7")

    for _ in range(3):
        await trigger()
    await let_pass(rota, 1000)
    await trigger()

    assert len(await provisioner.requests()) == 1


async def test_a_request_without_a_result_is_followed_by_another_when_it_is_stuck(
    add, rota, provisioner
):
    await add("vps-7")
    await trigger()
    first = await request_of(rota, "vps-7")

    await let_pass(rota, 1801)
    await trigger()

    requests = await provisioner.requests()
    assert [one["request_id"] for one in requests] == [
        str(first),
        str(await request_of(rota, "vps-7")),
    ]
    assert requests[0]["request_id"] != requests[1]["request_id"]


async def test_a_server_that_has_been_set_up_for_too_long_is_asked_for_as_a_recovery(
    add, provisioner
):
    await add("vps-7", status="provisioning", since=1801)
    await add("vps-8", status="provisioning", since=1700)

    await trigger()

    [request] = await provisioner.requests()
    assert (request["server_handle"], request["is_recovery"]) == ("vps-7", True)


async def test_two_workers_at_once_make_one_request_for_each_server(add, rota, provisioner):
    handles = [f"vps-{number}" for number in range(150)]
    for handle in handles:
        await add(handle)

    counts = await asyncio.gather(*[trigger() for _ in range(2)])

    requests = await provisioner.requests()
    assert Counter(one["server_handle"] for one in requests) == Counter(handles)
    assert sum(one["published"] for one in counts) == 150
    live = await rota.rows("select provisioning_request from servers")
    assert {one["request_id"] for one in requests} == {
        str(one["provisioning_request"]) for one in live
    }


async def test_while_redis_is_away_nothing_is_claimed(add, rota, redis_server, provisioner):
    await add("vps-7")
    redis_server.kill()
    try:
        with pytest.raises(QueueUnavailable, match=r"redis\.sock cannot be used"):
            await trigger()
        assert await request_of(rota, "vps-7") is None
    finally:
        redis_server.start()

    await trigger()

    assert len(await provisioner.requests()) == 1


async def test_what_was_claimed_and_did_not_reach_the_queue_goes_there_after_the_cool_down(
    add, rota, provisioner
):
    await add("vps-7")
    await provisioner.redis.set("provisioner:queue", "in the way")
    with pytest.raises(QueueRefused, match="WRONGTYPE"):
        await trigger()
    claimed = await request_of(rota, "vps-7")
    await provisioner.redis.delete("provisioner:queue")

    await trigger()
    at_once = await provisioner.requests()
    await let_pass(rota, 121)
    await trigger()

    assert at_once == []
    assert [one["request_id"] for one in await provisioner.requests()] == [str(claimed)]


async def test_a_crash_before_the_confirmation_puts_the_same_request_into_the_queue_again(
    add, rota, provisioner
):
    await add("vps-7")
    await trigger()
    await rota.sql.execute("update servers set provisioning_published_at = null")

    await let_pass(rota, 121)
    await trigger()
    await let_pass(rota, 121)
    await trigger()

    first, second = await provisioner.requests()
    assert first["request_id"] == second["request_id"]
    assert first["server_handle"] == second["server_handle"]


@pytest.mark.acceptance
async def test_a_worker_that_is_killed_beside_another_leaves_one_live_request_for_each_server(
    add, rota, provisioner
):
    handles = [f"vps-{number}" for number in range(300)]
    for handle in handles:
        await add(handle)

    one, other = await _worker(), await _worker()
    async with asyncio.timeout(60):
        while len(await provisioner.requests()) < 20:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)
    one.kill()
    assert await one.wait() == -signal.SIGKILL
    assert await other.wait() == 0
    await let_pass(rota, 121)
    assert await (await _worker()).wait() == 0

    requests = await provisioner.requests()
    live = await rota.rows("select handle, provisioning_request from servers")
    asked = {(one["server_handle"], one["request_id"]) for one in requests}
    assert asked == {(one["handle"], str(one["provisioning_request"])) for one in live}
    assert len(asked) == 300


async def _worker():
    """Starts a process of its own that runs the duty once."""
    script = (
        "import asyncio; from flows.provisioner_trigger import provisioner_trigger as duty; "
        "asyncio.run(duty(tenant='acme'))"
    )
    return await asyncio.create_subprocess_exec(sys.executable, "-c", script)


# -- what comes back


async def asked(add, rota, handle="vps-7"):
    await add(handle)
    await trigger()
    return str(await request_of(rota, handle))


async def test_a_server_is_ready_when_its_result_says_so(add, rota, provisioner):
    request_id = await asked(add, rota)
    await provisioner.answer(request_id, "vps-7")

    counts = await trigger()

    assert (counts["results"], counts["published"]) == (1, 0)
    assert await rota.status() == {"vps-7": "ready"}
    assert await provisioner.pending(GROUP) == 0


@pytest.mark.parametrize("status", ["failed", "error"])
async def test_a_failure_is_an_incident_and_the_next_success_closes_it(
    add, rota, provisioner, status
):
    request_id = await asked(add, rota)
    await provisioner.answer(request_id, "vps-7", status, error="no\0disk" * 1000)
    await trigger()
    [incident] = await rota.incidents()
    after_failure = await rota.status()

    await rota.sql.execute("update servers set status = 'pending_setup'")
    await trigger()
    await provisioner.answer(str(await request_of(rota, "vps-7")), "vps-7")
    await trigger()

    assert (incident["kind"], incident["server"]) == ("provisioning_failed", "vps-7")
    assert after_failure == {"vps-7": "error"}
    assert await rota.status() == {"vps-7": "ready"}
    assert [one["status"] for one in await rota.incidents()] == ["resolved"]


async def test_a_result_of_an_earlier_request_changes_nothing(add, rota, provisioner):
    request_id = await asked(add, rota)
    await let_pass(rota, 1801)
    await trigger()
    await provisioner.answer(request_id, "vps-7", "failed")

    counts = await trigger()

    assert (counts["results"], counts["passed_over"]) == (0, 1)
    assert await rota.status() == {"vps-7": "pending_setup"}
    assert await provisioner.pending(GROUP) == 0


async def test_the_same_result_twice_changes_nothing_more(add, rota, provisioner):
    request_id = await asked(add, rota)
    for _ in range(2):
        await provisioner.answer(request_id, "vps-7", "failed")

    await trigger()

    [row] = await rota.rows("select provisioning_attempts from servers")
    assert row["provisioning_attempts"] == 1
    assert len(await rota.incidents()) == 1


async def test_each_tenant_takes_its_own_results_out_of_the_stream_that_all_share(
    add, rota, provisioner
):
    await rota.add_tenant("globex")
    await asked(add, rota)
    await add("vps-7g", slug="globex")
    await trigger("globex")
    await provisioner.answer(str(await request_of(rota, "vps-7g")), "vps-7g")

    first = await trigger()
    second = await trigger("globex")

    assert (first["results"], first["passed_over"], second["results"]) == (0, 1, 1)
    assert await provisioner.garbage() == []
    found = await rota.rows("select handle, status from servers order by handle")
    assert {one["handle"]: one["status"] for one in found} == {
        "vps-7": "pending_setup",
        "vps-7g": "ready",
    }


async def test_garbage_is_kept_aside_and_holds_up_nothing(add, rota, provisioner, log):
    request_id = await asked(add, rota)
    await provisioner.say({"data": "garbage"})
    await provisioner.say({"nothing": "here"})
    await provisioner.answer(str(uuid4()), "vps-unknown")
    await provisioner.answer(request_id, "vps-7")

    counts = await trigger()

    assert (counts["garbage"], counts["passed_over"], counts["results"]) == (3, 0, 1)
    assert await rota.status() == {"vps-7": "ready"}
    kept = await provisioner.garbage()
    assert [one[b"data"] for one in kept[:2]] == [b"garbage", b"nothing"]
    assert b"vps-unknown" in kept[2][b"data"]
    assert kept[2][b"problem"] == b"There is no server 'vps-unknown' in the records."
    assert log.text.count("is kept aside") == 3
    assert "There is no server 'vps-unknown' in the records." in log.text
    assert await provisioner.pending(GROUP) == 0


async def test_a_result_that_the_records_refuse_is_kept_aside_alone(add, rota, provisioner):
    requests = {handle: await asked(add, rota, handle) for handle in ("vps-7", "vps-8")}
    for handle, request_id in requests.items():
        await provisioner.answer(request_id, handle)
    await rota.sql.execute(
        """alter table servers add constraint "handle: never ready"
        check (handle <> 'vps-8' or status <> 'ready')"""
    )

    counts = await trigger()

    assert (counts["garbage"], counts["results"]) == (1, 1)
    assert (await rota.status())["vps-7"] == "ready"
    [kept] = await provisioner.garbage()
    assert b"never ready" in kept[b"problem"]


@pytest.mark.parametrize("said", ["fe80::1%eth0", "not known"])
async def test_a_result_whose_address_is_of_no_use_is_written(add, rota, provisioner, said):
    await provisioner.answer(await asked(add, rota), "vps-7", server_ip=said)

    assert (await trigger())["results"] == 1
    assert await rota.status() == {"vps-7": "ready"}


async def test_a_result_of_the_far_future_is_written(add, rota, provisioner):
    request_id = await asked(add, rota)
    result = {"request_id": request_id, "server_handle": "vps-7", "status": "success"}
    await provisioner.redis.xadd(
        "provisioner:results", {"data": json.dumps(result)}, id=f"{2**63}-0"
    )

    assert (await trigger())["results"] == 1
    assert await rota.status() == {"vps-7": "ready"}


async def test_a_result_that_could_not_be_written_is_written_later(add, rota, provisioner):
    request_id = await asked(add, rota)
    await provisioner.answer(request_id, "vps-7")
    nowhere = Records(base_url="http://127.0.0.1:9", token="t", deadline_seconds=0.2)
    await nowhere.asave("nowhere", overwrite=True)

    with pytest.raises(RecordsUnavailable):
        await trigger(records="nowhere")
    left = await provisioner.pending(GROUP)
    await _age(provisioner)
    await trigger()

    assert left == 1
    assert await rota.status() == {"vps-7": "ready"}


async def test_what_a_worker_that_died_has_taken_is_taken_over(add, rota, provisioner):
    request_id = await asked(add, rota)
    await provisioner.answer(request_id, "vps-7")
    await provisioner.redis.xreadgroup(GROUP, "dead", {"provisioner:results": ">"})

    await trigger()
    at_once = await rota.status()
    await _age(provisioner)
    await trigger()

    assert at_once == {"vps-7": "pending_setup"}
    assert await rota.status() == {"vps-7": "ready"}
    assert await provisioner.pending(GROUP) == 0


async def _age(provisioner):
    """Lets a minute pass for what has been taken and not acknowledged."""
    stream = "provisioner:results"
    for one in await provisioner.redis.xpending_range(stream, GROUP, "-", "+", 100):
        number = one["message_id"]
        await provisioner.redis.xclaim(stream, GROUP, one["consumer"], 0, [number], idle=61_000)


# -- its parameters, and what it says


async def test_a_run_of_a_definition_works_for_its_tenant(add, rota, provisioner):
    await add("vps-7")
    run = await Deployed(provisioner_trigger).manual_run()

    counts = await run_flow_async(provisioner_trigger, flow_run=run, parameters=run.parameters)

    [request] = await provisioner.requests()
    assert counts["published"] == 1
    assert request["correlation_id"].startswith(Deployed.definition_id)


async def test_the_run_says_in_a_line_what_it_did(add, rota, provisioner):
    await add("vps-7")
    await provisioner.say({"data": "garbage"})

    await trigger()

    async with get_client() as client:
        runs = await client.read_flow_runs()
    latest = max(runs, key=lambda run: run.created)
    assert latest.state.message == "Put into the queue: 1; results written: 0; kept aside: 1."


async def test_a_missing_queue_says_how_to_make_it(rota):
    with pytest.raises(MissingBlock, match="`provisioner-queue/elsewhere`"):
        await trigger(service="elsewhere")
