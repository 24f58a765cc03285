"""Definitions, and runs of theirs that ended long ago."""

import asyncio
import sqlite3
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from prefect import tags
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.gateway import Gateway
from flows.cleaner import cleaner
from tests.vps import serving
from tests.vps.serving import Rota

TAG = "rota:cleaning"

# Two at a time, so that there are many moments in which it can be killed.
CLEAN = """
import asyncio
import flows.old_runs
from prefect import tags
from flows.cleaner import cleaner
async def clean():
    flows.old_runs.BULK = 2
    with tags({tag!r}):
        await cleaner(tenant="acme")
asyncio.run(clean())
"""
COMPLETED = {"type": "COMPLETED", "name": "Completed", "data": {"a": 1}}
RUNNING = {"type": "RUNNING", "name": "Running"}


class Patient(httpx.AsyncHTTPTransport):
    """Asks again while Prefect's SQLite is locked by its own services."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        while True:
            response = await super().handle_async_request(request)
            if response.status_code != 503:
                return response
            await response.aclose()
            await asyncio.sleep(0.05)


class House:
    """Prefect with a few deployments, and Rota's API with their definitions."""

    def __init__(self, rota: Rota, gateway: Gateway, http: httpx.AsyncClient, home: Path) -> None:
        self.rota, self.gateway, self.http, self.home = rota, gateway, http, home
        self.tag = f"{TAG}-{uuid4()}"
        self.queue = "acme"

    async def deployment(self) -> str:
        """Makes a deployment as Rota does, of no definition."""
        return await self.gateway.create(
            {
                "flow_id": await self.gateway.flow_id("cleaned"),
                "name": f"acme.{uuid4()}",
                "tags": [self.tag],
                "enforce_parameter_schema": False,
            }
        )

    async def definition(self, name: str = "nightly", keep: int = 2, count: int = 99) -> str:
        """Makes a definition and its deployment; returns that one's id."""
        deployment_id = await self.deployment()
        await self.define(name, deployment_id, keep, count)
        return deployment_id

    async def define(
        self, name: str, deployment_id: str | None, keep: int = 2, count: int = 99
    ) -> None:
        await self.rota.sql.execute(
            "insert into definitions (tenant, name, duty, keep_runs, run_count, deployment_id) "
            "values ('acme', $1, 'workflow_run', $2, $3, $4)",
            *(name, keep, count, UUID(deployment_id) if deployment_id else None),
        )

    async def id_of(self, name: str) -> str:
        found = await self.rota.sql.fetchval("select id from definitions where name = $1", name)
        return str(found)

    async def clean(self) -> dict[str, Any]:
        """Runs the duty as a run of this Rota."""
        with tags(self.tag):
            found: dict[str, Any] = await cleaner(tenant="acme")
        return found

    async def runs(
        self, deployment_id: str, count: int, hours: float = 48, **state: Any
    ) -> list[str]:
        """Makes runs that ended so many hours ago; returns their ids, the oldest first."""
        ids = []
        for _ in range(count):
            made = await self.gateway.create_run(deployment_id, {}, tags=[self.tag])
            body = {"state": state or COMPLETED, "force": True}
            path = f"/flow_runs/{made['id']}/set_state"
            (await self.http.post(path, json=body)).raise_for_status()
            ids.append(made["id"])
        self._age(ids, hours)
        return ids

    def _age(self, ids: list[str], hours: float) -> None:
        # Prefect takes no times from outside.
        with closing(sqlite3.connect(self.home / "prefect.db", timeout=60)) as base, base:
            for number, one in enumerate(ids):
                ago = f"-{int(hours * 3600) - number} seconds"
                base.execute(
                    "update flow_run set work_queue_name = ?, "
                    "expected_start_time = strftime('%Y-%m-%d %H:%M:%f000', 'now', ?), "
                    "end_time = case when end_time is null then null "
                    "else strftime('%Y-%m-%d %H:%M:%f000', 'now', ?) end where id = ?",
                    (self.queue, ago, ago, one),
                )

    async def due(self, run_id: str, hours: float) -> None:
        """Writes that a run was due so many hours ago."""
        with closing(sqlite3.connect(self.home / "prefect.db", timeout=60)) as base, base:
            base.execute(
                "update flow_run set expected_start_time = "
                "strftime('%Y-%m-%d %H:%M:%f000', 'now', ?) where id = ?",
                (f"-{int(hours * 3600)} seconds", run_id),
            )

    async def left(self, *deployment_ids: str) -> list[str]:
        """Reads the ids of the runs that there are, the oldest first."""
        chosen = {"deployment_id": {"any_": list(deployment_ids)}}
        found = await self.gateway.runs_where(chosen, "EXPECTED_START_TIME_ASC", 200)
        return [one["id"] for one in found]

    async def kill_a_cleaner_when(
        self, reached: Callable[[list[str]], bool], *deployment_ids: str
    ) -> None:
        """Runs the duty as a process, until the runs that are left are such, and kills it."""
        code = CLEAN.format(tag=self.tag)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=DEVNULL, stderr=DEVNULL
        )
        try:
            left = await self.left(*deployment_ids)
            while process.returncode is None and not reached(left):
                left = await self.left(*deployment_ids)
        finally:
            process.kill()
            await process.wait()

    def call(self, run_id: str, task_run_id: str, deployment_id: str | None) -> None:
        """Makes a run one that another has called, by way of a task."""
        with closing(sqlite3.connect(self.home / "prefect.db", timeout=60)) as base, base:
            base.execute(
                "update flow_run set parent_task_run_id = ?, deployment_id = ?, "
                "work_queue_name = null where id = ?",
                (task_run_id, deployment_id, run_id),
            )

    async def there(self, run_ids: list[str]) -> list[str]:
        """Reads which of these runs there are."""
        found = await self.gateway.runs_where({"id": {"any_": run_ids}}, "ID_DESC", 200)
        return [one["id"] for one in found]

    async def leave_behind(self, run_ids: list[str]) -> None:
        """Writes what a run leaves behind: a task run, a line of log, an artifact."""
        for one in run_ids:
            artifact = {"type": "markdown", "data": "x", "flow_run_id": one}
            task = {"flow_run_id": one, "task_key": "t", "dynamic_key": "0"}
            line = {"name": "x", "level": 20, "message": "m", "flow_run_id": one}
            line["timestamp"] = datetime.now(UTC).isoformat()
            said = (("/artifacts/", artifact), ("/task_runs/", task), ("/logs/", [line]))
            for path, body in said:
                (await self.http.post(path, json=body)).raise_for_status()

    async def wait_until_gone(self, run_ids: list[str]) -> None:
        """Waits until Prefect has nothing of runs; their logs go a moment after them."""
        async with asyncio.timeout(60):
            while any((await self.kept_of(run_ids)).values()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def kept_of(self, run_ids: list[str]) -> dict[str, int]:
        """Counts what Prefect's database holds of runs, by its tables."""
        marks = ", ".join("?" * len(run_ids))
        with closing(sqlite3.connect(self.home / "prefect.db", timeout=60)) as base:
            return {
                table: base.execute(
                    f"select count(*) from {table} where flow_run_id in ({marks})", run_ids
                ).fetchone()[0]
                for table in ("flow_run_state", "task_run", "log", "artifact")
            }


@pytest.fixture
async def house(
    engine: AsyncEngine,
    gateway: Gateway,
    sql: asyncpg.Connection,
    prefect_server: str,
    prefect_home: Path,
) -> AsyncIterator[House]:
    async with (
        serving.serving(engine, gateway, sql) as rota,
        httpx.AsyncClient(base_url=prefect_server, timeout=60, transport=Patient()) as http,
    ):
        yield House(rota, gateway, http, prefect_home)
