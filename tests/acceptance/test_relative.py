"""`after_seconds` with a real watch and a real worker, both of which are killed in between."""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from sqlalchemy.ext.asyncio import AsyncEngine

from blocks import WorkflowService
from store import pause
from tests.acceptance.test_watch import Watched, eventually
from tests.acceptance.test_watch import watched as watched
from tests.actions.conftest import Reply, Seen, Target, replied
from tests.actions.conftest import target as target
from tests.workers.conftest import Yard
from tests.workers.conftest import new_yard as new_yard
from workers.inline import InlineWorker

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "prefect", "worker", "start", "--type", "inline")
PATH = "/api/workflow/w/execute"


class Service:
    """A workflow service that notes the key of each start, and may be slow to answer."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()

    async def answer(self, seen: Seen) -> Reply:
        self.keys.append(seen.headers["idempotency-key"])
        await self.answers.wait()
        return replied({"executionId": f"e{len(self.keys)}"}, 202)


@pytest.fixture
async def service(target: Target, prefect_server: str) -> AsyncIterator[Service]:
    service = Service()
    target.answers[PATH] = service.answer
    await WorkflowService(base_url=target.url).asave("default", overwrite=True)
    yield service
    await WorkflowService.adelete("default")


@pytest.fixture
async def yard(prefect_server: str, new_yard: Callable[..., Yard]) -> AsyncIterator[Yard]:
    async with get_client() as client:
        yard = new_yard(client, prefect_server)
        template = InlineWorker.get_default_base_job_template()
        pool = WorkPoolCreate(name=yard.pool, type="inline", base_job_template=template)
        await client.create_work_pool(pool)
        yield yard
        yard.end()


async def test_each_run_follows_once_though_worker_and_watch_are_killed_in_between(
    watched: Watched, yard: Yard, service: Service, engine: AsyncEngine
) -> None:
    async def work() -> Any:
        worker = yard.start(
            command=COMMAND, PYTHONPATH=str(ROOT), PREFECT_WORKER_QUERY_SECONDS="0.5"
        )
        await asyncio.to_thread(worker.ready)
        return worker

    def called(times: int) -> Callable[[], Awaitable[bool]]:
        async def answer() -> bool:
            return len(set(service.keys)) == times

        return answer

    async def over() -> bool:
        return await watched.fetchval("select after_at is null from definitions") is True

    async def again() -> None:
        await pause.resume(engine, await watched.fetchval("select id from definitions"))

    watch, worker = await asyncio.gather(watched.watch(), work())
    await watched.sql(
        "insert into definitions (tenant, name, duty, after_seconds, work_pool, parameters) "
        "values ($1, 'after', 'workflow_run', 1, $2, '{\"workflow_id\": \"w\"}')",
        watched.tenant,
        yard.pool,
    )
    await eventually(called(1), 15)
    await eventually(over, 10)

    service.answers.clear()
    await again()
    await eventually(called(2), 15)
    worker.kill()
    watch.kill()
    service.answers.set()
    watch, _ = await asyncio.gather(watched.watch(), work())
    await eventually(over, 30)

    await again()
    watch.kill()
    await watched.watch()
    await eventually(called(3), 15)
    await eventually(over, 10)

    await eventually(watched.dealt_with, 10)
    deployment = await watched.deployment("after")
    assert deployment is not None
    chosen = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}}
    runs = await watched.call("/flow_runs/filter", chosen | {"sort": "EXPECTED_START_TIME_ASC"})
    assert [run["state_name"] for run in runs] == ["Completed"] * 3
    assert deployment["schedules"] == []
    assert len(set(service.keys)) == 3
    for one, following in itertools.pairwise(runs):
        ended, due = one["end_time"], following["expected_start_time"]
        wait = datetime.fromisoformat(due) - datetime.fromisoformat(ended)
        assert wait > timedelta(seconds=1)
