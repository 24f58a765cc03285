"""A tenant with jobs: the API, `watch` and a worker around it, all of them real."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from prefect.client.orchestration import PrefectClient
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.gateway import Gateway
from deployments.jobs import Dispatcher
from deployments.reconcile import Reconciler
from deployments.watch import Watch
from store import changes, roster
from store.settings import Settings
from tests.vps import serving
from tests.vps.serving import Rota
from tests.workers.conftest import Worker, Yard, new_yard, yard

__all__ = ["new_yard", "yard"]

LIVE = "status in ('queued', 'running')"


class Shop:
    """A tenant's jobs, and whatever carries them out."""

    def __init__(self, rota: Rota, yard: Yard, gateway: Gateway, database_url: str) -> None:
        self.tenant = f"t{uuid4().hex[:10]}"  # all tests share one Prefect
        self.sql = rota.sql
        self.rota = rota
        self.yard = yard
        self.prefect: PrefectClient = yard.client
        self.gateway = gateway
        self.settings = Settings(work_pool=yard.pool, concurrency=2)
        self._address = make_url(database_url)
        self._watching: asyncio.Task[None] | None = None

    # jobs

    async def queue(self, name: str, command: str = "true", **columns: Any) -> UUID:
        """Queues a job by plain SQL."""
        columns = {"tenant": self.tenant, "name": name, "command": command, **columns}
        marks = ", ".join(f"${number + 1}" for number in range(len(columns)))
        found: UUID = await self.sql.fetchval(
            f"insert into jobs ({', '.join(columns)}) values ({marks}) returning id",
            *(json.dumps(one) if isinstance(one, dict) else one for one in columns.values()),
        )
        return found

    async def row(self, name: str) -> dict[str, Any]:
        question = "select * from jobs where tenant = $1 and name = $2"
        return dict(await self.sql.fetchrow(question, self.tenant, name))

    async def set_limit(self, limit: int) -> None:
        await self.sql.execute(
            "insert into settings (tenant, key, value) values ($1, 'max_concurrent_jobs', $2) "
            "on conflict (tenant, key) do update set value = excluded.value",
            self.tenant,
            json.dumps(limit),
        )

    async def count(self, condition: str) -> int:
        question = f"select count(*) from jobs where tenant = $1 and {condition}"
        return int(await self.sql.fetchval(question, self.tenant))

    async def begun(self) -> dict[str, datetime]:
        """Reads when each job was let begin."""
        question = "select id, started_at from jobs where tenant = $1"
        return {str(id_): at for id_, at in await self.sql.fetch(question, self.tenant)}

    async def until(self, name: str, status: str, seconds: float = 30) -> dict[str, Any]:
        """Waits until a job has a status, and returns it."""
        await self.wait(lambda row: row["status"] == status, name, seconds)
        return await self.row(name)

    async def wait(
        self, condition: Callable[[dict[str, Any]], bool], name: str, seconds: float = 30
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition(await self.row(name)):  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.05)
                return
        logs = "\n".join(worker.text()[-3000:] for worker in self.yard.workers)
        raise AssertionError(f"after {seconds} s: {await self.row(name)}\n{logs}")

    async def drained(self, seconds: float) -> None:
        """Waits until no job is queued or running."""
        async with asyncio.timeout(seconds):
            while await self.count(LIVE):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.1)

    # those who carry them out

    def watch(self) -> None:
        """Starts what `rota watch` is, in this process."""
        following = Watch(self._address, self.rota.engine, self.gateway, self.settings)
        self._watching = asyncio.create_task(following.run())

    async def unwatch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None

    async def settle(self) -> None:
        """Makes the deployment, as `watch` does."""
        reconciler = Reconciler(self.rota.engine, self.gateway, self.settings)
        while work := await changes.begin(self.rota.engine):
            await reconciler.deal_with(work)

    def dispatcher(self) -> Dispatcher:
        """Returns what `watch` steps through, with nothing known yet."""
        return Dispatcher(self.rota.engine, self.gateway, self.settings)

    async def worker(self, *options: str, **env: str) -> Worker:
        env = {"ROTA_ALLOW_COMMANDS": "1", "ROTA_WORKER_GRACE_SECONDS": "1", **env}
        return await asyncio.to_thread(self.yard.start(*options, **env).ready)

    # Prefect

    async def runs(self) -> list[dict[str, Any]]:
        """Reads the runs of the tenant's jobs, the first due first."""
        question = "select deployment_id from definitions where tenant = $1 and name = 'jobs'"
        deployment = await self.sql.fetchval(question, self.tenant)
        chosen = {"deployment_id": {"any_": [str(deployment)]}}
        return await self.gateway.runs_where(chosen, "NEXT_SCHEDULED_START_TIME_ASC", 200)

    async def queue_limit(self) -> int | None:
        """Reads how many of the jobs workers may take at once."""
        [queue] = await self.gateway.queues_named([f"{self.tenant}.jobs"])
        limit: int | None = queue["concurrency_limit"]
        return limit

    async def run_of(self, name: str) -> dict[str, Any]:
        return await self.gateway.run(str((await self.row(name))["run_id"]))

    async def set_state(self, name: str, type_: str, **state: Any) -> None:
        """Does to a job's run what a worker does, or somebody in the UI."""
        path = f"/flow_runs/{(await self.row(name))['run_id']}/set_state"
        body = {"state": {"type": type_, **state}, "force": True}
        answer = await self.prefect._client.post(path, json=body)
        answer.raise_for_status()

    async def log_of(self, name: str) -> list[str]:
        run = str((await self.row(name))["run_id"])
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        answer = await self.prefect._client.post("/logs/filter", json=body)
        return [one["message"] for one in answer.json()]

    async def close(self) -> None:
        await self.unwatch()
        self.yard.end()
        tag = f"rota:{(await roster.read(self.rota.engine, [])).instance}"
        for one in [one async for page in self.gateway.owned(tag) for one in page]:
            await self.gateway.delete(one["id"])


@pytest.fixture
async def shop(
    engine: AsyncEngine, gateway: Gateway, sql: asyncpg.Connection, yard: Yard, database_url: str
) -> AsyncIterator[Shop]:
    async with serving.serving(engine, gateway, sql) as rota:
        shop = Shop(rota, yard, gateway, database_url)
        await rota.add_tenant(shop.tenant)
        yield shop
        await shop.close()
