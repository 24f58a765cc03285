"""The duty, on the real API and Prefect, against a server on loopback."""

import json

import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.flow_engine import run_flow_async
from prefect.states import AwaitingRetry

from flows.run_action import ActionFailed, run_action
from tests.actions.conftest import latest_run, replied, step
from tests.prefect.conftest import Deployed

pytestmark = pytest.mark.usefixtures("log")


async def run(name, **parameters):
    return await run_action(name, tenant="acme", **parameters)


async def test_steps_are_run_one_after_another_each_with_what_the_ones_before_put_out(
    actions, target
):
    target.answers["/orders?of=7"] = replied({"total": 120, "ids": [1, 2]})
    orders = {"$template": target.url + "/orders?of={{ input.customer }}"}
    text = {"$template": "{{ steps.fetch.output.body.ids | length }} orders"}
    ids = {"$from": "steps.fetch.output.body.ids"}
    await actions.made(
        "large-orders",
        step("fetch", "http", "tell", url=orders),
        step("tell", "http", url=f"{target.url}/tell", method="POST", json={"t": text, "ids": ids}),
    )

    output = await run("large-orders", input={"customer": 7})

    assert output["body"] == {"path": "/tell"}
    assert json.loads(target.seen[1].body) == {"t": "2 orders", "ids": [1, 2]}
    state = (await latest_run()).state
    assert state is not None
    assert state.message == "Steps completed: fetch, tell."
    fetch, tell = await actions.steps("large-orders")
    assert (fetch["step"], fetch["status"], fetch["next"]) == ("fetch", "completed", "tell")
    assert fetch["input"] == {"url": f"{target.url}/orders?of=7"}
    assert fetch["output"]["body"] == {"total": 120, "ids": [1, 2]}
    assert (tell["status"], tell["next"], tell["error"]) == ("completed", None, None)


async def test_prefect_shows_each_step_as_a_task_that_comes_after_the_one_before(actions, log):
    await actions.made(
        "two", step("one", "log", "two", text="Hello"), step("two", "log", text="Good bye")
    )

    await run("two")

    async with get_client() as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[(await latest_run()).id]))
        tasks = await client.read_task_runs(flow_run_filter=chosen)
    by_name = {one.name: one for one in tasks}
    assert by_name.keys() == {"one", "two"}
    [before] = by_name["two"].task_inputs["wait_for"]
    assert before.id == by_name["one"].id
