"""`rota watch` as processes of its own, and what happens when something near them dies."""

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy.engine import make_url

from store import database, embedded

pytestmark = [pytest.mark.acceptance, pytest.mark.wall_clock]

DAILY = "0 3 * * *"

_numbers = count(1)


async def eventually(check: Callable[[], Awaitable[Any]], within: float) -> float:
    """Asks until the answer is a true one; returns the seconds that it took."""
    began = time.monotonic()
    while True:
        answer = await check()
        took = time.monotonic() - began
        if answer:
            return took
        assert took < within, f"still {answer!r} after {took:.1f} s"
        await asyncio.sleep(0.05)


class Watched:
    """A roster, the processes that watch it, and the Prefect that they keep in step."""

    def __init__(self, database_url: str, prefect: str, logs: Path) -> None:
        self.database_url = database_url
        self.prefect = prefect
        self.logs = logs
        self.tenant = f"t{uuid4().hex[:10]}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.http = httpx.AsyncClient(timeout=60)

    # processes

    async def watch(self, **settings: str) -> subprocess.Popen[bytes]:
        """Starts a process that watches, and waits until it leads or stands by."""
        log = self.logs / f"watch-{next(_numbers)}.log"
        environment = {
            **os.environ,
            "ROTA_DATABASE_URL": self.database_url,
            "ROTA_SWEEP_SECONDS": "3600",
            "ROTA_STATUS_SECONDS": "0.5",
            "PREFECT_API_URL": self.prefect,
            **settings,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [sys.executable, "-m", "scripts.rota", "watch"],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)

        async def said() -> bool:
            assert process.poll() is None, log.read_text()
            text = log.read_text()
            return "This process leads" in text or "stands by" in text

        await eventually(said, 30)
        return process

    async def leader(self) -> int | None:
        """Reads the process id of who leads, as long as its lead is held."""
        held = await self.fetchval(
            "select count(*) from pg_locks where locktype = 'advisory' and granted "
            "and (classid::bigint << 32) + objid::bigint = $1",
            0x526F7461_0003,
        )
        assert held <= 1
        pid = await self.fetchval("select value ->> 'pid' from marks where name = 'watch'")
        return int(pid) if held and pid else None

    async def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(timeout=15)
        await self.http.aclose()

    # rows

    async def sql(self, statement: str, *arguments: Any) -> None:
        connection = await database.connect(make_url(self.database_url))
        await connection.execute(statement, *arguments)
        await connection.close()

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        connection = await database.connect(make_url(self.database_url))
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close()

    async def insert(self, name: str, cron: str | None = DAILY, workflow: str = "w") -> None:
        await self.sql(
            "insert into definitions (tenant, name, duty, cron, parameters) "
            "values ($1, $2, 'workflow_run', $3, $4)",
            self.tenant,
            name,
            cron,
            json.dumps({"workflow_id": workflow}),
        )

    # Prefect

    async def call(self, path: str, body: Any) -> Any:
        while True:
            answer = await self.http.post(f"{self.prefect}{path}", json=body)
            if answer.status_code != 503:  # SQLite, locked by Prefect's own services
                assert answer.is_success, answer.text
                return answer.json()
            await asyncio.sleep(0.05)

    async def deployment(self, name: str) -> dict[str, Any] | None:
        named = {"deployments": {"name": {"any_": [f"{self.tenant}.{name}"]}}}
        found = await self.call("/deployments/filter", named)
        assert len(found) <= 1
        return found[0] if found else None

    async def names(self) -> set[str]:
        named = {"deployments": {"name": {"like_": f"{self.tenant}."}}}
        return {
            one["name"].partition(".")[2] for one in await self.call("/deployments/filter", named)
        }

    async def runs(self, name: str) -> list[datetime]:
        deployment = await self.deployment(name)
        if deployment is None:
            return []
        body = {
            "flow_runs": {"deployment_id": {"any_": [deployment["id"]]}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        runs = await self.call("/flow_runs/filter", body)
        return [datetime.fromisoformat(run["expected_start_time"]) for run in runs]

    def has_runs(self, name: str) -> Callable[[], Awaitable[Any]]:
        return lambda: self.runs(name)

    async def dealt_with(self) -> bool:
        left = "select count(*) from changes where operation <> 'settle'"
        return await self.fetchval(left) == 0


@pytest.fixture
async def watched(
    database_url: str, prefect_server: str, pool: str, tmp_path: Path
) -> AsyncIterator[Watched]:
    watched = Watched(database_url, prefect_server, tmp_path)
    await watched.sql("insert into tenants (slug) values ($1)", watched.tenant)
    yield watched
    await watched.end()


async def test_plain_sql_is_in_prefect_within_two_seconds(watched):
    await watched.watch()
    await eventually(watched.dealt_with, 20)
    took = []
    for number in range(5):
        await watched.insert(f"n{number}")
        took.append(await eventually(watched.has_runs(f"n{number}"), 10))

        await watched.sql(
            "update definitions set cron = '30 4 * * *' where name = $1", f"n{number}"
        )

        async def moved(name: str = f"n{number}") -> bool:
            return {run.minute for run in await watched.runs(name)} == {30}

        took.append(await eventually(moved, 10))

    # Now and then Prefect's SQLite is locked, and the call has to be made again.
    assert statistics.median(took) < 2, took


async def test_bad_rows_hinder_no_good_ones(watched):
    await watched.watch()
    await watched.insert("good")
    await watched.insert("bad-cron", cron="0 0 30 2 *")
    await watched.sql(
        "insert into definitions (tenant, name, duty, paused_until) "
        "values ($1, 'bad-duty', 'no_such', 'infinity')",
        watched.tenant,
    )
    await watched.insert("good-too")

    await eventually(watched.has_runs("good"), 10)
    await eventually(watched.has_runs("good-too"), 10)
    await eventually(watched.dealt_with, 10)

    assert await watched.names() == {"good", "good-too"}
    problems = await watched.fetchval(
        "select array_agg(problem order by name) from definitions where problem is not null"
    )
    assert [problem.partition(":")[0] for problem in problems] == ["cron", "duty"]


async def test_a_pause_that_ends_by_itself_needs_nobody(watched):
    await watched.watch()
    now = datetime.now(UTC)
    for name in ("resumes", "ends"):
        await watched.insert(name, cron=None if name == "ends" else DAILY)
    # A deployment resumes a minute before it may run, so that its first run is there in time.
    await watched.sql(
        "update definitions set paused_until = $1 where name = 'resumes'",
        now + timedelta(seconds=65),
    )
    await watched.sql(
        "update definitions set ends_at = $1 where name = 'ends'", now + timedelta(seconds=5)
    )

    def paused(name: str, wanted: bool) -> Callable[[], Awaitable[bool]]:
        async def answer() -> bool:
            found = await watched.deployment(name)
            return found is not None and found["paused"] is wanted

        return answer

    await eventually(paused("resumes", True), 4)
    await eventually(paused("ends", False), 4)
    await eventually(paused("resumes", False), 15)
    await eventually(paused("ends", True), 15)
    assert datetime.now(UTC) >= now + timedelta(seconds=5)
    # The deployment is resumed by one call and given its runs by the next.
    await eventually(watched.has_runs("resumes"), 10)


async def test_what_has_run_shows_on_the_row(watched):
    await watched.watch()
    await watched.insert("worked")
    await eventually(watched.has_runs("worked"), 10)
    deployment = await watched.deployment("worked")
    assert deployment is not None
    run = await watched.call(f"/deployments/{deployment['id']}/create_flow_run", {})
    for state in ("PENDING", "RUNNING", "COMPLETED"):
        body = {"state": {"type": state, "name": state.title()}, "force": True}
        await watched.call(f"/flow_runs/{run['id']}/set_state", body)

    async def counted() -> bool:
        return bool(
            await watched.fetchval(
                "select run_count = 1 and last_status = 'Completed' and last_run_at is not null "
                "from definitions"
            )
        )

    await eventually(counted, 10)


async def test_another_takes_the_lead_of_a_leader_that_is_killed(watched):
    first, second = await watched.watch(), await watched.watch()
    assert await watched.leader() == first.pid
    await watched.insert("before")
    await eventually(watched.has_runs("before"), 10)

    first.send_signal(signal.SIGKILL)
    await watched.insert("after")

    async def second_leads() -> bool:
        return await watched.leader() == second.pid

    took = await eventually(second_leads, 15)
    took += await eventually(watched.has_runs("after"), 15)
    assert took < 15
    assert await watched.names() == {"before", "after"}


async def test_a_leader_that_freezes_loses_the_lead_and_does_no_harm_when_it_thaws(watched):
    first, second = await watched.watch(), await watched.watch()
    await watched.insert("minutely", cron="* * * * *")
    await eventually(watched.has_runs("minutely"), 10)

    first.send_signal(signal.SIGSTOP)
    await watched.sql("update definitions set retries = 1")

    async def second_leads() -> bool:
        return await watched.leader() == second.pid

    await eventually(second_leads, 25)
    await eventually(watched.dealt_with, 15)

    first.send_signal(signal.SIGCONT)
    await watched.insert("later")
    await eventually(watched.has_runs("later"), 15)
    for retries in range(2, 6):
        await watched.sql("update definitions set retries = $1", retries)
        await eventually(watched.dealt_with, 15)

    # The mark of the one that thawed may stand until the leader's next beat.
    await eventually(second_leads, 15)
    assert first.poll() is None
    assert await watched.names() == {"minutely", "later"}
    runs = await watched.runs("minutely")
    assert runs == [runs[0] + number * timedelta(minutes=1) for number in range(len(runs))]


async def test_a_watch_that_is_told_to_stop_gives_up_the_lead_at_once(watched):
    first, second = await watched.watch(), await watched.watch()

    began = time.monotonic()
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=10) == 0

    async def second_leads() -> bool:
        return await watched.leader() == second.pid

    await eventually(second_leads, 10)
    assert time.monotonic() - began < 10


async def test_what_was_written_while_nobody_watched_is_caught_up_with(watched):
    first = await watched.watch()
    await watched.insert("changed")
    await watched.insert("removed")
    await eventually(watched.has_runs("removed"), 10)
    first.send_signal(signal.SIGKILL)
    first.wait()

    await watched.sql("update definitions set cron = '30 4 * * *' where name = 'changed'")
    await watched.sql("delete from definitions where name = 'removed'")
    await watched.insert("added")
    await watched.watch()

    await eventually(watched.dealt_with, 20)
    assert await watched.names() == {"changed", "added"}
    assert {run.minute for run in await watched.runs("changed")} == {30}
    assert await watched.runs("added") != []


# -- servers that die


async def test_prefect_is_killed_and_caught_up_with(
    database_url, start_prefect, end_group, tmp_path
):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    server = start_prefect(tmp_path, port)
    watched = Watched(database_url, f"http://127.0.0.1:{port}/api", tmp_path)
    try:
        body = {"name": "rota", "type": "process", "base_job_template": {}}
        await watched.call("/work_pools/", body)
        await watched.sql("insert into tenants (slug) values ($1)", watched.tenant)
        await watched.watch()
        for name in ("minutely", "removed"):
            await watched.insert(name, cron="* * * * *")
        await eventually(watched.dealt_with, 20)
        before = await watched.runs("minutely")

        end_group(server, signal.SIGKILL)
        await watched.insert("added")
        await watched.sql("delete from definitions where name = 'removed'")
        await watched.sql("update definitions set retries = 3 where name = 'minutely'")
        server = start_prefect(tmp_path, port)

        await eventually(watched.dealt_with, 40)
        assert await watched.names() == {"minutely", "added"}
        assert await watched.runs("added") != []
        minutely = await watched.deployment("minutely")
        assert minutely is not None
        assert minutely["job_variables"]["env"]["ROTA_RETRIES"] == "3"
        runs = await watched.runs("minutely")
        assert set(before) <= set(runs)
        assert len(runs) == len(set(runs))
    finally:
        await watched.end()
        end_group(server)


async def test_postgresql_goes_away_and_comes_back(prefect_server, pool, short_home, tmp_path):
    server = embedded.start(short_home / "postgres")
    try:
        address = embedded.running_url(server.pgdata)
        assert address is not None
        async with database.opened(address) as engine:
            await database.upgrade(engine)
        url = address.render_as_string(hide_password=False)
        watched = Watched(url, prefect_server, tmp_path)
        await watched.sql("insert into tenants (slug) values ($1)", watched.tenant)
        process = await watched.watch()
        await watched.insert("before")
        await eventually(watched.has_runs("before"), 10)

        server.stop()
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await watched.insert("meanwhile")
        server.ensure_postgres_running()
        await watched.insert("after")

        await eventually(watched.has_runs("after"), 30)
        assert process.poll() is None
        assert await watched.leader() == process.pid
        await watched.end()
    finally:
        server.stop()
