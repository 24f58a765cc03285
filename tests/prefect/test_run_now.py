"""Runs that are started from Python."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from deployments import run_now
from deployments.gateway import Gateway
from deployments.runs import CannotRun

Deploy = Callable[..., Awaitable[str]]
SCHEMA = {"type": "object", "properties": {"workflow_id": {"type": "string"}}}


@pytest.fixture
def deploy(gateway: Gateway) -> Deploy:
    async def make(name: str, tag: str, flow: str = "workflow-run") -> str:
        body: dict[str, Any] = {
            "flow_id": await gateway.flow_id(flow),
            "name": name.replace("/", "."),
            "tags": [tag],
            "parameter_openapi_schema": SCHEMA,
            "enforce_parameter_schema": True,
            "parameters": {"workflow_id": "own"},
        }
        return await gateway.create(body)

    return make


@pytest.fixture
def reference() -> str:
    return f"acme/{uuid4()}"


async def test_a_definition_runs_at_once(deploy: Deploy, reference: str):
    deployment_id = await deploy(reference, "rota:abc")
    run = await run_now(reference, {"workflow_id": "x"})
    assert str(run.deployment_id) == deployment_id
    assert run.parameters == {"workflow_id": "x"}
    assert run.state is not None
    assert run.state.is_scheduled()


async def test_one_key_makes_one_run(deploy: Deploy, reference: str):
    await deploy(reference, "rota:abc")
    first = await run_now(reference, idempotency_key="k")
    assert (await run_now(reference, idempotency_key="k")).id == first.id
    assert (await run_now(reference)).id != first.id


async def test_a_foreign_deployment_is_not_run(deploy: Deploy, reference: str):
    await deploy(reference, "somebody-elses")
    with pytest.raises(CannotRun, match="Prefect has no deployment of acme/"):
        await run_now(reference)


async def test_of_several_none_is_run(deploy: Deploy, reference: str):
    await deploy(reference, "rota:abc")
    await deploy(reference, "rota:def", flow="another")
    with pytest.raises(CannotRun, match="Prefect has 2 deployments of acme/"):
        await run_now(reference)


async def test_an_unknown_parameter_is_refused(deploy: Deploy, reference: str):
    await deploy(reference, "rota:abc")
    with pytest.raises(CannotRun, match="no parameter 'workflowid'; did you mean 'workflow_id'"):
        await run_now(reference, {"workflowid": "x"})


async def test_an_address_has_two_parts(prefect_server: str):
    with pytest.raises(CannotRun, match="'acme' is no definition's address"):
        await run_now("acme")
