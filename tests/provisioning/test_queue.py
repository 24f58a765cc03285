"""The block that leads to the provisioner, on a real Redis."""

import asyncio
import traceback
from contextlib import aclosing
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from blocks.provisioner import ProvisionerQueue, QueueRefused, QueueUnavailable, Request
from tests.provisioning.conftest import PASSWORD

pytestmark = pytest.mark.needs("redis-server", "redis-server")

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)


class TestStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return ProvisionerQueue


def a_request() -> Request:
    return Request(
        correlation_id="run-1",
        timestamp=AT,
        request_id=uuid4(),
        callback_stream="provisioner:results",
        server_handle="vps-7",
    )


async def all_of(streams, group="rota-acme", **options):
    return [one async for batch in streams.results(group, **options) for one in batch]


async def test_a_request_has_the_shape_that_the_provisioner_reads(queue, provisioner):
    request = a_request()

    async with queue.opened() as streams:
        await streams.publish(request)

    assert await provisioner.requests() == [
        {
            "version": "1",
            "correlation_id": "run-1",
            "timestamp": "2026-11-21T10:00:00Z",
            "request_id": str(request.request_id),
            "callback_stream": "provisioner:results",
            "server_handle": "vps-7",
            "force_reinstall": False,
            "is_recovery": False,
        }
    ]


async def test_a_result_is_read_with_the_instant_at_which_it_came(queue, provisioner):
    request_id = uuid4()
    number = await provisioner.answer(str(request_id), "vps-7", "failed", error="no disk")

    async with queue.opened() as streams:
        [arrived] = await all_of(streams)

    assert arrived.id == number
    assert int(arrived.at.timestamp()) == int(number.partition("-")[0]) // 1000
    result = arrived.result
    assert (result.request_id, result.server_handle) == (request_id, "vps-7")
    assert (result.status, result.error, str(result.server_ip)) == (
        "failed",
        "no disk",
        "192.0.2.7",
    )


async def test_what_is_acknowledged_does_not_come_again(queue, provisioner):
    await provisioner.answer(str(uuid4()), "vps-7")

    async with queue.opened() as streams:
        await streams.acknowledge("rota-acme", await all_of(streams))
        assert await all_of(streams, abandoned_seconds=0) == []

    assert await provisioner.pending("rota-acme") == 0


async def test_what_somebody_took_and_left_is_given_to_the_next(queue, provisioner):
    number = await provisioner.answer(str(uuid4()), "vps-7")

    async with queue.opened() as first:
        async with aclosing(first.results("rota-acme")) as batches:
            await anext(batches)
        assert await all_of(first) == []
    async with queue.opened() as second:
        assert [one.id for one in await all_of(second, abandoned_seconds=0)] == [number]


async def test_two_readers_of_a_group_get_each_entry_once(queue, provisioner):
    sent = [await provisioner.answer(str(uuid4()), f"vps-{n}") for n in range(250)]

    async with queue.opened() as one, queue.opened() as other:
        found = await asyncio.gather(all_of(one), all_of(other))

    assert sorted(entry.id for part in found for entry in part) == sorted(sent)


async def test_every_group_gets_every_entry(queue, provisioner):
    number = await provisioner.answer(str(uuid4()), "vps-7")

    async with queue.opened() as streams:
        for group in ("rota-acme", "rota-globex"):
            assert [one.id for one in await all_of(streams, group)] == [number]


@pytest.mark.parametrize(
    "fields",
    [
        {"payload": "{}"},
        {"data": ""},
        {"data": b"\xff\xfe"},
        {"data": "[" * 100_000},
        {"data": '{"request_id": "1"}'},
        {"data": f'{{"request_id": "{uuid4()}", "server_handle": "vps-7", "status": "done"}}'},
        {"data": f'{{"request_id": "{uuid4()}", "server_handle": "a b", "status": "failed"}}'},
    ],
    ids=["no data", "empty", "bytes", "a trap", "half", "no status", "no handle"],
)
async def test_what_is_no_result_says_why(queue, provisioner, fields):
    await provisioner.say(fields)

    async with queue.opened() as streams:
        [arrived] = await all_of(streams)

    assert arrived.result is None
    assert arrived.problem


async def test_an_entry_of_a_year_that_python_does_not_know_is_read(queue, provisioner):
    await provisioner.redis.xadd("provisioner:results", {"data": "x"}, id=f"{2**63}-0")

    async with queue.opened() as streams:
        [arrived] = await all_of(streams)

    assert arrived.at == datetime(9000, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("said", ["", "fe80::1%eth0", "none yet", 7, ["192.0.2.7"], True])
async def test_an_address_of_no_use_is_none_and_the_result_counts(queue, provisioner, said):
    await provisioner.answer(str(uuid4()), "vps-7", server_ip=said)

    async with queue.opened() as streams:
        [arrived] = await all_of(streams)

    assert (arrived.result.status, arrived.result.server_ip) == ("success", None)


async def test_garbage_is_kept_once_whichever_group_meets_it(queue, provisioner):
    number = await provisioner.say({"data": "garbage"})

    async with queue.opened() as streams:
        for group in ("rota-acme", "rota-globex"):
            [arrived] = await all_of(streams, group)
            await streams.keep_aside(group, arrived, arrived.problem)
            assert await provisioner.pending(group) == 0

    [kept] = await provisioner.garbage()
    assert kept[b"entry"].decode() == number
    assert kept[b"data"] == b"garbage"
    assert b"JSON" in kept[b"problem"]


async def test_a_result_is_kept_aside_once_it_concerns_no_group(queue, provisioner):
    number = await provisioner.answer(str(uuid4()), "vps-unknown")

    async with queue.opened() as streams:
        groups = ("rota-acme", "rota-globex")
        found = {group: (await all_of(streams, group))[0] for group in groups}
        for group, last in zip(groups, (False, True), strict=True):
            assert await streams.disown(group, found[group], "Nobody's.") is last
            assert await provisioner.pending(group) == 0
            assert len(await provisioner.garbage()) == last

    [kept] = await provisioner.garbage()
    assert (kept[b"entry"].decode(), kept[b"problem"]) == (number, b"Nobody's.")


async def test_a_redis_that_is_not_there_is_unavailable():
    nowhere = ProvisionerQueue(url="redis://127.0.0.1:9/0", answer_seconds=0.5)

    with pytest.raises(QueueUnavailable, match=r"redis://127.0.0.1:9/0 cannot be used"):
        async with nowhere.opened():
            pass


async def test_a_wrong_password_is_refused_and_not_repeated(redis_server, provisioner):
    stranger = ProvisionerQueue(url=redis_server.url, password="wrong-pa55word")

    with pytest.raises(QueueRefused, match="username and password") as caught:
        async with stranger.opened():
            pass
    assert "wrong-pa55word" not in str(caught.value)


@pytest.mark.parametrize(
    "refusal",
    [
        "unknown command 'AUTH', with args beginning with: '{user}' '{password}' ",
        "unknown command 'AUTH', with args beginning with: '{user}' '{part}' ",
        "no {password} of {user}",
    ],
)
async def test_a_refusal_that_repeats_the_login_is_told_without_it(refusal):
    user, password = "rota-user", "pa55word-nobody-may-see"
    said = refusal.format(user=user, password=password, part=password[:10])

    async def refuse(reader, writer):
        while await reader.read(4096):
            writer.write(f"-ERR {said}\r\n".encode())
        writer.close()

    listener = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    stranger = ProvisionerQueue(url=f"redis://127.0.0.1:{port}", username=user, password=password)

    with pytest.raises(QueueRefused, match="refused what was asked: ") as caught:
        async with stranger.opened():
            pass
    listener.close()
    await listener.wait_closed()

    shown = "".join(traceback.format_exception(caught.value))
    assert user not in shown
    assert password[:10] not in shown


async def test_a_stream_that_is_something_else_is_refused(queue, provisioner):
    await provisioner.redis.set("provisioner:queue", "a string")

    async with queue.opened() as streams:
        with pytest.raises(QueueRefused, match="WRONGTYPE"):
            await streams.publish(a_request())


@pytest.mark.parametrize(
    "url",
    [
        f"redis://rota:{PASSWORD}@127.0.0.1/0",
        f"redis://127.0.0.1/0?password={PASSWORD}",
        f"http://127.0.0.1/{PASSWORD}",
        f"redis://127.0.0.1:{PASSWORD}/0",
        "",
    ],
)
def test_an_address_of_no_use_is_refused_without_being_repeated(url):
    with pytest.raises(ValidationError) as caught:
        ProvisionerQueue(url=url)
    assert "url" in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_the_password_is_not_shown(queue):
    assert PASSWORD not in f"{queue!r} {queue} {queue.model_dump()}"
