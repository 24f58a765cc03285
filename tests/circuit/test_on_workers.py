"""Runs that are put off come back on every kind of worker, and none of them is lost."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.workers.process import ProcessWorker

from deployments.history import attempts
from deployments.spec import RETRIES, RETRY_DELAY
from flows.circuit import put_off_so_far
from flows.workflow_run import workflow_run
from tests.circuit.conftest import kept
from workers.inline import InlineWorker

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]
TEMPLATES = {
    "inline": InlineWorker.get_default_base_job_template(),
    "process": ProcessWorker.get_default_base_job_template(),
}
RUNS = 5


@pytest.fixture
async def hired(prefect_server: str, new_yard: Callable[..., Any]) -> AsyncIterator[Any]:
    """Gives what makes a pool of a type with a worker, and a deployment of the duty in it."""
    yards = []
    async with get_client() as client:

        async def hire(type_: str, **env: str) -> tuple[Any, Any]:
            yard = new_yard(client, prefect_server)
            yards.append(yard)
            template = TEMPLATES[type_]
            pool = WorkPoolCreate(name=yard.pool, type=type_, base_job_template=template)
            await client.create_work_pool(pool)
            document = {
                "flow_id": str(await client.create_flow(workflow_run)),
                "name": f"acme.{yard.pool}",
                "entrypoint": "deployments.bound.workflow_run",
                "work_pool_name": yard.pool,
                "parameters": {"workflow_id": "wf", "deadline_seconds": 0.8},
                "job_variables": {"env": {RETRIES: "1", RETRY_DELAY: "0", **env}},
                "labels": {"rota.definition": yard.pool, "rota.reference": "acme/wf"},
            }
            # The client's own method does not take labels.
            made = await client._client.post("/deployments/", json=document)
            made.raise_for_status()
            command = (sys.executable, "-m", "prefect", "worker", "start", "--type", type_)
            worker = yard.start(
                command=command, PYTHONPATH=str(ROOT), PREFECT_WORKER_QUERY_SECONDS="1"
            )
            await asyncio.to_thread(worker.ready)
            return yard, made.json()["id"]

        yield hire
        for yard in yards:
            yard.end()


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float, yard: Any) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, [one.text()[-5000:] for one in yard.workers]
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("type_", "env"),
    [("inline", {}), ("inline", {"OWN": "process"}), ("process", {})],
    ids=["inline", "apart", "process"],
)
async def test_runs_that_meet_a_service_that_is_away_complete_when_it_is_back(
    rota: Any, service: Any, hired: Any, type_: str, env: dict[str, str]
) -> None:
    service.away = True
    yard, deployment = await hired(type_, **env)
    made = [await yard.client.create_flow_run_from_deployment(deployment) for _ in range(RUNS)]
    ids = [run.id for run in made]

    async def all_put_off_and_tried_again() -> bool:
        runs = [await yard.client.read_flow_run(id_) for id_ in ids]
        there = await kept(rota)
        return bool(
            all(put_off_so_far(run.labels) for run in runs) and there and there["times"] >= 2
        )

    await _until(all_put_off_and_tried_again, 60, yard)
    times = (await kept(rota) or {})["times"]
    # Those that begin at once call once each; from then on one at a time.
    assert service.calls <= RUNS + times
    service.away = False

    runs = await yard.until(ids, seconds=90)
    assert {run.state.name for run in runs} == {"Completed"}
    assert len(service.keys) == len(set(service.keys)) == RUNS
    assert [attempts({"run_count": r.run_count, "labels": r.labels}) for r in runs] == [1] * RUNS
    for id_ in ids:
        states = {state.name for state in await yard.client.read_flow_run_states(id_)}
        assert not states & {"Failed", "AwaitingRetry", "Crashed"}, states
    assert await kept(rota) is None
