"""What an outside service sees of a duty whose workers are killed."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prefect.states import Scheduled

from blocks import WorkflowService

pytestmark = [pytest.mark.acceptance, pytest.mark.wall_clock, pytest.mark.timeout(200)]

TOKEN = "t0ken-of-this-test"
RUNS = 24


@pytest.fixture
def service(unused_port: int) -> Iterator[str]:
    """Yields the address of an example service."""
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.workflow_service", "--port", str(unused_port)],
        env={**os.environ, "WORKFLOW_SERVICE_TOKEN": TOKEN},
    )
    yield f"http://127.0.0.1:{unused_port}"
    process.terminate()
    process.wait(timeout=10)


async def executions(address: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=address, headers=headers) as http:
        for _ in range(100):
            with suppress(httpx.TransportError):
                found: list[dict[str, Any]] = (await http.get("/api/executions")).json()
                return found
            await asyncio.sleep(0.1)
    raise AssertionError("the example service does not answer")


async def test_each_occurrence_is_started_once_however_many_workers_die(
    yard: Any, service: str
) -> None:
    assert await executions(service) == []
    await WorkflowService(base_url=service, token=TOKEN).asave("kills", overwrite=True)
    deployment = await yard.deploy(
        "workflow-run",
        entrypoint="deployments.bound.workflow_run",
        parameters={"workflow_id": "wf-1", "service": "kills"},
    )
    workers = [yard.start(), yard.start()]
    await asyncio.gather(*(asyncio.to_thread(one.ready) for one in workers))
    first = datetime.now(UTC) + timedelta(seconds=3)
    runs = [
        (
            await yard.client.create_flow_run_from_deployment(
                deployment, state=Scheduled(scheduled_time=first + timedelta(seconds=0.25 * number))
            )
        ).id
        for number in range(RUNS)
    ]
    chance = random.Random(3)
    for worker in workers:
        await asyncio.sleep(chance.uniform(2, 5))
        worker.kill()
        yard.start()
    ended = await yard.until(runs, seconds=90)
    assert Counter(run.state.name for run in ended) == {"Completed": RUNS}
    started = await executions(service)
    assert len({one["input"]["triggerTime"] for one in started}) == RUNS
    assert len(started) == RUNS, "a key was used for two executions, or none"
