"""A run that is put off is the same run, with all of its retries."""

import json
from contextlib import suppress

import pytest
from prefect import get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_async
from prefect.states import Scheduled, StateType

from blocks import WorkflowService
from blocks.workflow_service import WorkflowServiceUnavailable
from deployments.history import attempts
from flows.run_action import run_action
from flows.workflow_run import workflow_run
from tests.actions.conftest import actions as actions
from tests.actions.conftest import replied, step
from tests.circuit.conftest import PATH, kept
from tests.prefect.conftest import Deployed

PARAMETERS = {"workflow_id": "wf", "deadline_seconds": 0.5}


async def _read(run):
    async with get_client() as client:
        return await client.read_flow_run(run.id)


async def _execute(run, duty=workflow_run):
    """Runs it once, as a worker does; returns it as it is then."""
    run = await _read(run)
    with suppress(Pause):
        await run_flow_async(duty, flow_run=run, parameters=run.parameters, return_type="state")
    return await _read(run)


def _attempts(run):
    return attempts({"run_count": run.run_count, "labels": run.labels})


async def _due(rota):
    """Lets the circuit's time come."""
    value = {**(await kept(rota) or {}), "until": "2026-01-01T00:00:00Z"}
    await rota.sql.execute("update checkpoints set value = $1", json.dumps(value))


async def _start_again(run):
    """Has it due now, as it will be."""
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Scheduled(), force=True)
    return run


async def test_a_run_that_finds_the_service_away_is_put_off_and_its_state_says_why(
    rota, service, log
):
    block = WorkflowService(base_url=service.target.url, put_off_seconds=60)
    await block.asave("default", overwrite=True)
    service.away = True
    run = await _execute(await Deployed(workflow_run, PARAMETERS).manual_run())
    assert run.state.type == StateType.SCHEDULED
    assert run.state.message.startswith("Put off until 20")
    assert "The workflow service default has been away since" in run.state.message
    assert "503" in run.state.message
    assert run.next_scheduled_start_time > run.state.timestamp
    assert _attempts(run) == 0
    assert (await kept(rota))["times"] == 1

    service.away = False
    other = await _execute(await Deployed(workflow_run, PARAMETERS).manual_run())
    assert other.state.type == StateType.SCHEDULED
    assert service.calls == 1


async def test_it_is_the_same_run_of_the_same_occurrence_that_goes_on(rota, service, log):
    service.away = True
    made = await Deployed(workflow_run, PARAMETERS).manual_run()
    run = await _execute(made)
    service.away = False
    await _due(rota)
    run = await _execute(await _start_again(run))
    assert run.state.is_completed()
    at = made.expected_start_time.isoformat().replace("+00:00", "Z")
    assert service.keys == [f"{Deployed.definition_id}:{at}"]
    assert _attempts(run) == 1
    assert await kept(rota) is None


@pytest.mark.parametrize(("refusals", "completed"), [(1, True), (2, False)])
async def test_being_put_off_uses_up_no_retry(rota, service, log, refusals, completed):
    duty = workflow_run.with_options(retries=1)
    service.away = True
    run = await Deployed(workflow_run, PARAMETERS).manual_run()
    for times in range(1, 4):
        run = await _execute(run, duty)
        assert run.state.type == StateType.SCHEDULED
        assert run.run_count == times
        await _due(rota)
        await _start_again(run)
    service.away = False
    service.answers = [replied({}, 404)] * refusals
    run = await _execute(run, duty)
    assert run.state.is_completed() == completed
    assert _attempts(run) == 2


async def test_a_retry_may_be_put_off_as_well(rota, service, log):
    duty = workflow_run.with_options(retries=1)
    run = await Deployed(workflow_run, PARAMETERS).manual_run()

    def refuse_and_go(seen):
        service.target.answers[seen.path] = service.answer
        service.away = True
        return replied({}, 404)

    service.target.answers[PATH] = refuse_and_go
    run = await _execute(run, duty)
    assert run.state.type == StateType.SCHEDULED
    # Or no worker would take it.
    assert run.empirical_policy.retry_type is None
    assert _attempts(run) == 1
    service.away = False
    await _due(rota)
    run = await _execute(await _start_again(run), duty)
    assert run.state.is_completed()
    assert _attempts(run) == 2


async def test_a_run_that_was_due_a_day_ago_fails(rota, service, log):
    service.away = True
    run = await Deployed(workflow_run, PARAMETERS).scheduled_run()
    run = await _execute(run)
    assert run.state.is_failed()
    assert "is not put off any more" in run.state.message
    assert _attempts(run) == 1


async def test_without_a_records_block_a_run_fails_as_ever(prefect_server, service, log):
    service.away = True
    run = await _execute(await Deployed(workflow_run, PARAMETERS).manual_run())
    assert run.state.is_failed()
    assert "did not start the workflow" in run.state.message


async def test_a_run_that_no_worker_would_start_again_fails(rota, service, log):
    service.away = True
    with pytest.raises(WorkflowServiceUnavailable):
        await workflow_run(**PARAMETERS)


async def test_a_step_puts_its_run_off_which_goes_on_with_it(rota, service, actions, log):
    service.away = True
    name = await actions.made(
        "two",
        step("first", "log", "start", text="once"),
        step("start", "workflow", workflow_id="wf", timeout_seconds=3, retries=3),
    )
    run = await _execute(await Deployed(run_action, {"action": name}).manual_run(), run_action)
    assert run.state.type == StateType.SCHEDULED
    assert "The workflow service default has been away" in run.state.message
    assert service.calls == 2  # within the time of one try of the step
    assert [one["status"] for one in await actions.steps(name)] == ["completed", "failed"]

    service.away = False
    await _due(rota)
    run = await _execute(await _start_again(run), run_action)
    assert run.state.is_completed()
    assert log.text.count("The step first was completed before.") == 1
    assert service.keys[0].endswith(":start")
