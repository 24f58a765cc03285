"""Tenants that follow a real broker's events, whatever dies meanwhile."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from yarl import URL

from api.event_message import _MESSAGE
from api.events import DEAD, QUEUE, RETRY, Events, declare
from store import database

pytestmark = [pytest.mark.acceptance, pytest.mark.needs("rabbitmq-server", "rabbitmq-server")]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MANUAL = Path(__file__).parents[2] / "docs" / "events.md"
SOON = 0.3  # seconds between two tries

_numbers = count(1)


def later(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def as_json(at: datetime, tenant: str = "acme", reason: str | None = None) -> bytes:
    said = {"org_id": tenant, "timestamp": at.isoformat()}
    return json.dumps(said if reason is None else said | {"reason": reason}).encode()


def as_protobuf(at: datetime, tenant: str = "acme", reason: int = 0) -> bytes:
    message = _MESSAGE(org_id=tenant, reason=reason)
    message.timestamp.FromDatetime(at)
    encoded: bytes = message.SerializeToString()
    return encoded


async def eventually(check: Callable[[], Awaitable[Any]], within: float = 20) -> Any:
    """Asks until the answer is a true one, and returns it."""
    deadline = time.monotonic() + within
    while not (answer := await check()):
        assert time.monotonic() < deadline, f"still {answer!r}"
        await asyncio.sleep(0.05)
    return answer


async def logged(caplog: pytest.LogCaptureFixture, what: str) -> None:
    async def said() -> bool:
        return what in caplog.text

    await eventually(said)


class Tenants:
    """What the database knows of the tenants."""

    def __init__(self, sql: asyncpg.Connection) -> None:
        self.sql = sql

    async def row(self, slug: str = "acme") -> asyncpg.Record:
        return await self.sql.fetchrow("select * from tenants where slug = $1", slug)

    async def suspended(self, slug: str = "acme") -> bool:
        return bool((await self.row(slug))["suspended"])

    async def resumed(self, slug: str = "acme") -> bool:
        return not await self.suspended(slug)

    async def writes(self) -> list[str]:
        rows = await self.sql.fetch(
            "select who from audit where kind = 'tenant' and operation = 'update' order by id"
        )
        return [row["who"] for row in rows]


@pytest.fixture
async def tenants(sql: asyncpg.Connection) -> Tenants:
    await sql.execute("insert into tenants (slug) values ('acme'), ('globex')")
    return Tenants(sql)


@asynccontextmanager
async def consuming(
    url: URL, engine: AsyncEngine, retry_seconds: float = SOON
) -> AsyncIterator[None]:
    """Consumes in this process, as `rota events` does."""
    task = asyncio.create_task(Events(url, engine, retry_seconds).run())
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def consumer(
    broker: Any, desk: Any, engine: AsyncEngine, tenants: Tenants
) -> AsyncIterator[None]:
    async with consuming(broker.url, engine):
        yield


class Process:
    """`rota events` in a process of its own."""

    def __init__(self, url: URL, database_url: str, home: Path) -> None:
        self.log = home / f"events-{next(_numbers)}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scripts.rota", "events"],
                env={
                    **os.environ,
                    "ROTA_RABBITMQ_URL": str(url),
                    "ROTA_DATABASE_URL": database_url,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    async def says(self, what: str, times: int = 1) -> None:
        async def said() -> bool:
            text = self.log.read_text()
            assert self.process.poll() is None, text
            return text.count(what) >= times

        await eventually(said, 60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
async def start(
    broker: Any, database_url: str, tmp_path: Path
) -> AsyncIterator[Callable[[], Process]]:
    """Gives what starts a consumer in a process of its own."""
    started = []

    def begin() -> Process:
        started.append(Process(broker.url, database_url, tmp_path))
        return started[-1]

    yield begin
    for one in started:
        one.kill()


# -- what an event does


@pytest.mark.parametrize("form", [as_json, as_protobuf])
async def test_blocked_suspends_and_unblocked_resumes(
    form: Any, desk: Any, consumer: None, tenants: Tenants
) -> None:
    await desk.send("blocked", form(NOON))
    await eventually(tenants.suspended)
    row = await tenants.row()
    assert row["suspended_at"] == NOON
    assert row["suspended_reason"] == (None if form is as_json else "INSUFFICIENT_FUNDS")
    assert await tenants.resumed("globex")

    await desk.send("unblocked", form(later(1)))
    await eventually(tenants.resumed)
    row = await tenants.row()
    assert (row["suspended_at"], row["suspended_reason"]) == (None, None)
    assert await tenants.writes() == ["events", "events"]


async def test_what_waited_while_nobody_consumed_is_made_up_for_in_its_order(
    broker: Any, desk: Any, engine: AsyncEngine, tenants: Tenants
) -> None:
    await desk.send("blocked", as_json(NOON, reason="invoice open"))
    await desk.send("unblocked", as_json(later(1)))
    await desk.send("blocked", as_json(later(2), tenant="globex", reason="again"))
    assert await desk.waiting(QUEUE) == 3

    async with consuming(broker.url, engine):
        await eventually(lambda: tenants.suspended("globex"))
        await eventually(tenants.resumed)
    assert await tenants.writes() == ["events"] * 3


async def test_an_event_that_comes_twice_is_carried_out_once(
    desk: Any, consumer: None, tenants: Tenants
) -> None:
    for _ in range(2):
        await desk.send("blocked", as_json(NOON, reason="invoice open"))
    await desk.send("blocked", as_json(NOON, tenant="globex"))
    await eventually(lambda: tenants.suspended("globex"))
    assert await tenants.writes() == ["events"] * 2


async def test_an_old_unblocked_does_not_resume(
    desk: Any, consumer: None, tenants: Tenants
) -> None:
    await desk.send("blocked", as_json(NOON))
    await desk.send("unblocked", as_json(later(-1)))
    await desk.send("blocked", as_json(NOON, tenant="globex"))
    await eventually(lambda: tenants.suspended("globex"))
    assert await tenants.suspended()


async def test_a_tenant_that_nobody_knows_is_left_out(
    desk: Any, consumer: None, tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.send("blocked", as_json(NOON, tenant="initech"))
    await desk.send("blocked", as_json(NOON))
    await eventually(tenants.suspended)
    assert "There is no tenant 'initech'" in caplog.text
    assert [await desk.waiting(name) for name in (QUEUE, RETRY, DEAD)] == [0, 0, 0]


# -- what cannot be done


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"garbage", "neither JSON nor protobuf"),
        (b'{"org_id": "acme"}', "timestamp: Field required"),
        (as_json(NOON, tenant="No Slug"), "org_id: 'No Slug'"),
    ],
)
async def test_garbage_is_dead_at_once_and_holds_up_nothing(
    body: bytes, why: str, desk: Any, consumer: None, tenants: Tenants
) -> None:
    await desk.send("blocked", body, content_type="application/json")
    await desk.send("blocked", as_json(NOON))
    dead = await desk.take(DEAD)
    assert dead.body == body
    assert dead.content_type == "application/json"
    assert dead.headers["x-rota-key"] == "blocked"
    assert str(dead.headers["x-rota-error"]).startswith(why)
    await eventually(tenants.suspended)
    assert [await desk.waiting(name) for name in (QUEUE, RETRY, DEAD)] == [0, 0, 0]


async def test_a_failure_is_tried_again_ten_times_and_then_dead(
    desk: Any, consumer: None, tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    await tenants.sql.execute("alter table tenants rename to elsewhere")
    await desk.send("blocked", as_json(NOON))
    dead = await desk.take(DEAD, 60)
    tries = [one for one in caplog.records if "is tried again" in one.message]
    assert len(tries) == 10
    assert all(second.created - first.created >= SOON for first, second in pairwise(tries))
    assert dead.body == as_json(NOON)
    assert 'relation "tenants" does not exist' in str(dead.headers["x-rota-error"])
    assert [await desk.waiting(name) for name in (QUEUE, RETRY, DEAD)] == [0, 0, 0]


async def test_what_is_dead_can_be_replayed_as_the_manual_says(
    broker: Any, desk: Any, consumer: None, tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.events.TRIES", 0)
    await tenants.sql.execute("alter table tenants rename to elsewhere")
    await desk.send("blocked", as_json(NOON, reason="invoice open"))
    await desk.send("blocked", b"garbage")

    async def dead() -> bool:
        return bool(await desk.waiting(DEAD) == 2)

    await eventually(dead)
    await tenants.sql.execute("alter table elsewhere rename to tenants")

    _, script = MANUAL.read_text().split("```python\n")
    replay = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script.partition("```")[0],
        env={**os.environ, "ROTA_RABBITMQ_URL": str(broker.url)},
    )
    assert await replay.wait() == 0
    await eventually(tenants.suspended)
    assert (await tenants.row())["suspended_reason"] == "invoice open"
    assert (await desk.take(DEAD)).body == b"garbage"
    assert [await desk.waiting(name) for name in (QUEUE, RETRY, DEAD)] == [0, 0, 0]


async def test_a_database_that_comes_back_gets_what_happened_meanwhile(
    broker: Any,
    desk: Any,
    postgres: Any,
    database_url: str,
    tenants: Tenants,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = make_url(database_url).database
    admin = await database.connect(postgres)
    async with (
        database.opened(make_url(database_url)) as engine,
        consuming(broker.url, engine),
    ):
        await admin.execute(f"alter database {name} allow_connections false")
        await admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 "
            "and pid <> $2",
            name,
            tenants.sql.get_server_pid(),
        )
        await desk.send("blocked", as_json(NOON))
        await logged(caplog, "is tried again")
        await admin.execute(f"alter database {name} allow_connections true")
        await eventually(tenants.suspended)
    assert [await desk.waiting(name) for name in (QUEUE, RETRY, DEAD)] == [0, 0, 0]
    await admin.close()


async def test_a_database_that_does_not_answer_is_a_failure_too(
    desk: Any,
    consumer: None,
    tenants: Tenants,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.events.APPLY_SECONDS", 0.5)
    async with held_up(desk, tenants, database_url):
        await logged(caplog, "is tried again in 0.3 s (1 of 10): TimeoutError")
    await eventually(tenants.suspended)


# -- what dies


@asynccontextmanager
async def held_up(desk: Any, tenants: Tenants, database_url: str) -> AsyncIterator[None]:
    """Sends an event, and lets the consumer that takes it wait for the tenant's row."""
    other = await database.connect(make_url(database_url))

    async def waits() -> Any:
        return await other.fetchval("select count(*) from pg_locks where not granted")

    async with tenants.sql.transaction():
        await tenants.sql.execute("select from tenants where slug = 'acme' for update")
        await desk.send("blocked", as_json(NOON))
        await eventually(waits)
        yield
    await other.close()


async def test_an_event_whose_consumer_is_killed_goes_to_the_next_one(
    desk: Any, start: Callable[[], Process], tenants: Tenants, database_url: str
) -> None:
    first = start()
    await first.says("Consuming")
    async with held_up(desk, tenants, database_url):
        await desk.send("blocked", as_json(NOON, tenant="globex"))
        assert await desk.waiting(QUEUE) == 1, "it has taken more than one"
        first.kill()
    assert await tenants.resumed()

    second = start()
    await second.says("is blocked since", 2)
    assert await tenants.suspended()
    assert await tenants.suspended("globex")
    assert [await desk.waiting(name) for name in (QUEUE, RETRY, DEAD)] == [0, 0, 0]


async def test_a_consumer_goes_on_when_its_broker_was_killed(
    broker: Any, start: Callable[[], Process], tenants: Tenants
) -> None:
    process = start()
    await process.says("Consuming")
    async with broker.desk() as desk:
        await desk.send("blocked", as_json(NOON))
    await eventually(tenants.suspended)

    await asyncio.to_thread(broker.kill)
    await process.says("it has ended the connection")
    await asyncio.to_thread(broker.start)
    await process.says("Consuming", 2)
    async with broker.desk() as desk:
        await desk.send("unblocked", as_json(later(1)))
    await eventually(tenants.resumed)
    assert broker.url.password not in process.log.read_text()


async def test_what_waits_to_be_tried_again_survives_its_broker(
    broker: Any, engine: AsyncEngine, tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    async with broker.desk() as desk:
        await declare(desk.channel)
        await desk.send("blocked", as_json(NOON))
        await tenants.sql.execute("alter table tenants rename to elsewhere")
        async with consuming(broker.url, engine, retry_seconds=60):
            await logged(caplog, "is tried again")
        await eventually(lambda: desk.waiting(RETRY))
    await asyncio.to_thread(broker.stop)
    await tenants.sql.execute("alter table elsewhere rename to tenants")
    await asyncio.to_thread(broker.start)
    async with consuming(broker.url, engine):
        await eventually(tenants.suspended)


async def test_a_consumer_makes_queues_again_that_somebody_deleted(
    broker: Any, start: Callable[[], Process], tenants: Tenants
) -> None:
    process = start()
    await process.says("Consuming")
    async with broker.desk() as desk:
        await desk.channel.queue_delete(QUEUE)
        await process.says("somebody has deleted a queue. Connecting again.")
        await process.says("Consuming", 2)
        await desk.send("blocked", as_json(NOON))
        await eventually(tenants.suspended)

        await desk.channel.queue_delete(DEAD)
        await desk.send("blocked", b"garbage")
        await process.says("NO_ROUTE")
        await process.says("Consuming", 3)
        assert (await desk.take(DEAD)).body == b"garbage"


@pytest.mark.parametrize("frozen", [False, True])
async def test_sigterm_ends_it_whatever_its_broker_does(
    frozen: bool, broker: Any, start: Callable[[], Process], tenants: Tenants
) -> None:
    process = start()
    await process.says("Consuming")
    if frozen:
        broker.pause(signal.SIGSTOP)
    try:
        process.process.terminate()
        assert await asyncio.to_thread(process.process.wait, 20) == 0
    finally:
        if frozen:
            broker.pause(signal.SIGCONT)
    assert "Stopped." in process.log.read_text()
    assert "Traceback" not in process.log.read_text()
