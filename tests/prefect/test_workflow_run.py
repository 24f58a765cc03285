import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from prefect import get_client
from prefect.blocks.core import Block
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ParameterTypeError
from prefect.flow_engine import run_flow_async
from prefect.states import AwaitingRetry

from blocks import WorkflowService
from blocks.workflow_service import WorkflowRefused
from flows.blocks_by_name import MissingBlock
from flows.workflow_run import workflow_run

TOKEN = "t0ken-nobody-may-see"


@pytest.fixture(scope="module")
def example_service(unused_tcp_port_factory) -> Iterator[str]:
    port = unused_tcp_port_factory()
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.workflow_service", "--port", str(port)],
        env={**os.environ, "WORKFLOW_SERVICE_TOKEN": TOKEN},
    )
    try:
        _wait_until_healthy(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=10)


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/healthz").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail("The example service did not start.")


@pytest.fixture
async def service(prefect_server, example_service) -> AsyncIterator[str]:
    await WorkflowService(base_url=example_service, token=TOKEN).asave("default", overwrite=True)
    yield example_service
    await WorkflowService.adelete("default")


async def _executions(address: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=address, headers=headers) as http:
        executions: list[dict[str, Any]] = (await http.get("/api/executions")).json()
        return executions


async def _latest_run() -> FlowRun:
    async with get_client() as client:
        runs = await client.read_flow_runs()
    return max(runs, key=lambda run: run.created)


async def test_a_call_without_a_deployment_starts_the_workflow(service):
    execution_id = await workflow_run("wf-1", {"a": 1, "triggerType": "forged"})

    execution = (await _executions(service))[0]
    run = await _latest_run()
    assert execution["execution_id"] == execution_id
    assert execution["workflow_id"] == "wf-1"
    trigger_time = execution["input"]["triggerTime"]
    assert execution["input"] == {
        "a": 1,
        "triggerType": "manual",
        "scheduleId": None,
        "triggerTime": trigger_time,
    }
    assert execution["key"] == f"{run.id}:{trigger_time}"


async def test_a_scheduled_occurrence_is_executed_once_however_often_it_is_run(service, deployed):
    run = await deployed(workflow_run, {"workflow_id": "wf-2"}).scheduled_run()

    first = await run_flow_async(workflow_run, flow_run=run, parameters=run.parameters)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
        again = await client.read_flow_run(run.id)
    second = await run_flow_async(workflow_run, flow_run=again, parameters=run.parameters)

    [execution] = [e for e in await _executions(service) if e["workflow_id"] == "wf-2"]
    assert first == second == execution["execution_id"]
    assert execution["tries"] == 2
    assert execution["key"] == f"{deployed.definition_id}:2024-11-20T11:00:00Z"
    assert execution["input"] == {
        "triggerType": "schedule",
        "scheduleId": deployed.definition_id,
        "triggerTime": "2024-11-20T11:00:00Z",
    }


async def test_the_run_shows_the_execution(service):
    execution_id = await workflow_run("wf-1")

    run = await _latest_run()
    assert run.state is not None
    assert run.state.is_completed()
    assert run.state.message == f"Execution {execution_id} of workflow wf-1 started."


async def test_a_refusal_fails_the_run(prefect_server, example_service):
    await WorkflowService(base_url=example_service, token="wrong").asave("stranger")

    with pytest.raises(WorkflowRefused, match="401"):
        await workflow_run("wf-1", service="stranger")
    run = await _latest_run()
    assert run.state is not None
    assert run.state.is_failed()
    assert "401" in (run.state.message or "")


async def test_a_missing_block_says_how_to_make_it(prefect_server):
    with pytest.raises(MissingBlock) as caught:
        await workflow_run("wf-1", service="elsewhere")

    assert "`workflow-service/elsewhere`" in str(caught.value)
    assert '.save("elsewhere")' in str(caught.value)


@pytest.mark.parametrize(
    "parameters",
    [{"workflow_id": ""}, {"workflow_id": "wf-1", "deadline_seconds": 0}],
)
async def test_parameters_of_no_use_are_refused(prefect_server, parameters):
    with pytest.raises(ParameterTypeError):
        await workflow_run(**parameters)


async def test_the_block_loads_by_its_full_name_with_its_token(service):
    block = await Block.aload("workflow-service/default")

    assert isinstance(block, WorkflowService)
    assert block.token is not None
    assert block.token.get_secret_value() == TOKEN
