"""The duty, on the real API and Prefect, against a server on loopback."""

import asyncio
import json

import pytest
from prefect import get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.flow_engine import run_flow_async
from prefect.states import AwaitingRetry

from blocks import WorkflowService
from blocks.records import RecordsRefused
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


async def test_the_first_rule_that_holds_says_which_step_is_next(actions, target):
    target.answers["/"] = replied({"total": 120})
    large = {"when": [{"path": "body.total", "is": "greater", "value": 100}], "step": "large"}
    any_other = {"step": "small"}
    await actions.made(
        "either",
        step("fetch", "http", large, any_other, url=f"{target.url}/"),
        step("large", "log", text="Large"),
        step("small", "log", text="Small"),
    )

    await run("either")
    target.answers["/"] = replied({"total": 80})
    await run("either")

    ways = [[one["step"] for one in await actions.steps("either", number)] for number in (1, 0)]
    assert ways == [["fetch", "large"], ["fetch", "small"]]


async def test_where_no_rule_holds_the_run_ends(actions, target):
    never = {"when": [{"path": "body.nothing", "is": "not_equal", "value": 1}], "step": "tell"}
    await actions.made(
        "ends",
        step("fetch", "http", never, url=f"{target.url}/"),
        step("tell", "log", text="Never"),
    )

    assert (await run("ends"))["status"] == 200

    assert [one["step"] for one in await actions.steps("ends")] == ["fetch"]


async def test_a_step_that_fails_fails_the_run_which_says_which_and_why(actions, target):
    target.answers["/"] = replied({"detail": "no"}, 500)
    await actions.made(
        "fails",
        step("fetch", "http", "tell", url=f"{target.url}/?k=1"),
        step("tell", "log", text=""),
    )
    target.answers["/?k=1"] = target.answers["/"]

    said = f'The step fetch failed: GET {target.url}/ answered 500: {{"detail": "no"}}'
    with pytest.raises(ActionFailed, match="The step fetch failed") as failed:
        await run("fails")

    assert str(failed.value) == said
    [fetch] = await actions.steps("fails")
    assert (fetch["status"], fetch["output"]) == ("failed", None)
    assert fetch["error"] == said.removeprefix("The step fetch failed: ")


async def test_a_status_that_is_expected_is_no_failure(actions, target):
    target.answers["/"] = replied({}, 404)
    await actions.made(
        "expects", step("fetch", "http", url=f"{target.url}/", expect_status=[200, 404])
    )

    assert (await run("expects"))["status"] == 404


async def test_a_step_is_tried_again_as_often_as_it_says(actions, target):
    replies = [replied({}, 503), replied({}, 503), replied({"ok": True})]
    target.answers["/"] = lambda seen: replies.pop(0)
    await actions.made("tries", step("fetch", "http", url=f"{target.url}/", retries=2))

    assert (await run("tries"))["body"] == {"ok": True}

    keys = {one.headers["idempotency-key"] for one in target.seen}
    assert (len(target.seen), len(keys)) == (3, 1)


async def test_what_cannot_be_done_is_not_tried_again(actions, target):
    url = {"$template": "{{ input.nothing.at.all }}"}
    await actions.made("cannot", step("fetch", "http", url=url, retries=5))

    with pytest.raises(ActionFailed, match="The step fetch failed: A template of its input") as no:
        await run("cannot")

    assert "has no attribute 'nothing'" in str(no.value)
    async with get_client() as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[(await latest_run()).id]))
        [only] = await client.read_task_runs(flow_run_filter=chosen)
    assert only.run_count == 1


async def test_a_step_that_takes_too_long_is_stopped(actions, target):
    async def never(seen):
        await target.held.wait()
        return replied({})

    target.answers["/"] = never
    await actions.made("slow", step("fetch", "http", url=f"{target.url}/", timeout_seconds=0.3))

    with pytest.raises(ActionFailed) as failed:
        await run("slow")
    target.held.set()

    assert "0.3 s" in str(failed.value)


async def test_a_step_that_puts_out_too_much_fails(actions, target):
    target.answers["/"] = (200, {}, b"x" * 300_000)
    await actions.made("large", step("fetch", "http", url=f"{target.url}/"))

    with pytest.raises(ActionFailed, match=r"It would put out 300,\d+ bytes"):
        await run("large")


async def test_a_private_address_is_not_called_unless_it_is_allowed(actions, target):
    await actions.made("private", step("fetch", "http", url=f"{target.url}/"))
    await actions.allow()

    with pytest.raises(ActionFailed, match="leads to no public address"):
        await run("private")

    assert target.connections == 0


async def test_a_secret_that_is_not_the_tenants_own_is_not_there(actions, target):
    await Secret(value="s3cret-of-globex").asave("globex--ops", overwrite=True)
    await actions.made(
        "curious",
        step("fetch", "http", url=f"{target.url}/", headers={"X": {"$secret": "globex--ops"}}),
    )

    with pytest.raises(ActionFailed, match="There is no block `secret/acme--globex--ops`"):
        await run("curious")
    await Secret.adelete("globex--ops")


async def test_a_template_of_a_step_is_what_its_steps_are_made_from(actions, target):
    body = {"kind": "http", "input": {"url": f"{target.url}/a", "method": "POST"}, "retries": 1}
    assert (await actions.http.put("step-templates/call", json=body)).status_code == 201
    await actions.made("made", {"name": "one", "template": "call", "input": {"body": "Hello"}})

    assert (await run("made"))["status"] == 200

    assert (target.seen[0].method, target.seen[0].body) == ("POST", b"Hello")


async def test_an_action_that_is_not_there_is_said_so(actions):
    with pytest.raises(RecordsRefused, match="There is no action 'nothing' of this tenant"):
        await run("nothing")


async def test_an_action_that_was_spoilt_by_sql_is_said_so(actions):
    await actions.made("spoilt", step("one", "log", text=""))
    await actions.rota.sql.execute("""update actions set steps = '[{"name": "one"}]'""")

    with pytest.raises(RecordsRefused, match="it needs either a kind or a template"):
        await run("spoilt")


async def again(flow_run):
    """Runs it again, as Retry in Prefect's UI does."""
    async with get_client() as client:
        await client.set_flow_run_state(flow_run.id, AwaitingRetry(), force=True)
        run = await client.read_flow_run(flow_run.id)
    return await run_flow_async(run_action, flow_run=run, parameters=run.parameters)


async def test_a_run_goes_on_where_it_failed_with_the_action_as_it_has_been_mended(actions, target):
    first = step("first", "http", "second", url=f"{target.url}/first", method="POST")
    text = {"$template": "{{ steps.first.output.status }}"}
    await actions.made("mend", first, step("second", "http", url=f"{target.url}/wrong", body=text))
    target.answers["/wrong"] = replied({}, 404)
    flow_run = await Deployed(run_action, {"action": "mend"}).scheduled_run()
    with pytest.raises(ActionFailed, match="The step second failed"):
        await run_flow_async(run_action, flow_run=flow_run, parameters=flow_run.parameters)

    await actions.made("mend", first, step("second", "http", url=f"{target.url}/right", body=text))
    output = await again(flow_run)

    assert output["body"] == {"path": "/right"}
    assert [one.path for one in target.seen] == ["/first", "/wrong", "/right"]
    assert target.seen[2].body == b"200"
    key = f"{Deployed.definition_id}:2024-11-20T11:00:00Z"
    assert [one.headers["idempotency-key"] for one in target.seen] == [
        f"{key}:first",
        *[f"{key}:second"] * 2,
    ]
    assert [one["status"] for one in await actions.steps("mend")] == ["completed"] * 2


async def test_a_run_that_has_completed_does_nothing_twice(actions, target):
    await actions.made("done", step("one", "http", url=f"{target.url}/"))
    flow_run = await Deployed(run_action, {"action": "done"}).manual_run()
    once = await run_flow_async(run_action, flow_run=flow_run, parameters=flow_run.parameters)

    assert await again(flow_run) == once

    assert len(target.seen) == 1


async def test_a_message_goes_through_a_notification_block(actions, target):
    hook = CustomWebhookNotificationBlock(
        name="hook",
        url=f"{target.url}/hook",
        json_data={"text": "{{body}}", "about": "{{subject}}"},
    )
    await hook.asave("actions-ops", overwrite=True)
    block = "custom-webhook/actions-ops"
    await actions.made("tells", step("tell", "slack", block=block, text="Hello", subject="Orders"))

    assert await run("tells") == {"block": block}

    assert json.loads(target.seen[0].body) == {"text": "Hello", "about": "Orders"}
    target.answers["/hook"] = replied({}, 500)
    with pytest.raises(ActionFailed, match="did not take the message: HTTPStatusError 500") as no:
        await run("tells")
    assert target.url not in str(no.value)
    await CustomWebhookNotificationBlock.adelete("actions-ops")


async def test_a_workflow_is_started_once_for_an_occurrence_and_a_step(actions, target):
    await WorkflowService(base_url=target.url, token="t0ken").asave("actions", overwrite=True)
    target.answers["/api/workflow/wf-1/execute"] = replied({"executionId": "e-7"})
    await actions.made(
        "starts", step("start", "workflow", workflow_id="wf-1", input={"a": 1}, service="actions")
    )

    assert await run("starts") == {"execution": "e-7"}

    sent = json.loads(target.seen[0].body)["input"]
    assert (sent["a"], sent["triggerType"]) == (1, "manual")
    assert target.seen[0].headers["idempotency-key"].endswith("Z:start")
    await WorkflowService.adelete("actions")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("slack", {"block": "custom-webhook/globex--ops", "text": "Hello"}),
        ("workflow", {"service": "globex--ops", "workflow_id": "wf"}),
    ],
)
async def test_a_block_of_another_tenants_that_comes_from_elsewhere_is_not_used(
    actions, target, kind, value
):
    hook = CustomWebhookNotificationBlock(name="hook", url=f"{target.url}/hook")
    await hook.asave("globex--ops", overwrite=True)
    await WorkflowService(base_url=target.url).asave("globex--ops", overwrite=True)
    late = {key: {"$from": f"input.{key}"} for key in value}
    await actions.made("curious", step("go", kind, retries=2, **late))

    with pytest.raises(ActionFailed, match=r"The step go failed: The block .* is another tenant's"):
        await run("curious", input=value)

    assert target.seen == []
    await CustomWebhookNotificationBlock.adelete("globex--ops")
    await WorkflowService.adelete("globex--ops")


async def test_rules_that_take_too_long_fail_their_step(actions, monkeypatch):
    monkeypatch.setattr("flows.step_rules.SECONDS", 0.5)
    pattern = {"path": "text", "is": "matches", "value": "(?:[ab]{0,30}){1,30}c$"}
    slow = {"when": [pattern], "step": "end"}
    await actions.made(
        "slow",
        step("say", "log", *[slow] * 50, text="a" * 60_000),
        step("end", "log", text=""),
    )

    with pytest.raises(ActionFailed, match=r"The step say failed: Its rules take more than 0\.5 s"):
        await run("slow")

    [say] = await actions.steps("slow")
    assert say["status"] == "failed"


async def test_two_runs_of_an_action_at_once_do_not_mix(actions, target):
    both = asyncio.Barrier(2)

    async def answer(seen):
        await both.wait()
        return replied({"said": seen.body.decode()})

    target.answers["/"] = answer
    body = {"$template": "{{ input.who }}"}
    text = {"$template": "{{ steps.ask.output.body.said }} {{ input.who }}"}
    await actions.made(
        "both",
        step("ask", "http", "say", url=f"{target.url}/", method="POST", body=body),
        step("say", "log", text=text),
    )

    said = await asyncio.gather(*(run("both", input={"who": who}) for who in ("one", "two")))

    assert [one["text"] for one in said] == ["one one", "two two"]
    recorded = [(await actions.steps("both", number))[1]["output"]["text"] for number in (0, 1)]
    assert sorted(recorded) == ["one one", "two two"]


async def test_an_action_that_is_changed_while_it_runs_goes_on_as_it_was(actions, target):
    async def answer(seen):
        await actions.made(
            "edited", step("first", "log", "new", text=""), step("new", "log", text="New")
        )
        return replied({})

    target.answers["/"] = answer
    await actions.made(
        "edited", step("first", "http", "old", url=f"{target.url}/"), step("old", "log", text="Old")
    )

    assert await run("edited") == {"text": "Old"}

    assert [one["step"] for one in await actions.steps("edited")] == ["first", "old"]
    runs = (await actions.http.get("actions/edited/runs")).json()["items"]
    assert [one["revision"] for one in runs] == [1]
    assert await run("edited") == {"text": "New"}


async def test_a_step_that_fails_where_its_run_has_no_room_left_is_recorded_as_failed(
    actions, target
):
    async def answer(seen):
        await actions.rota.sql.execute(
            "insert into action_steps (tenant, run_id, step, position, kind, status, output, "
            "finished_at) select tenant, id, 'before', 9, 'log', 'completed', "
            "to_jsonb(repeat('x', 8 * 1024 * 1024 - 1000)), now() from action_runs"
        )
        return replied({}, 500)

    target.answers["/"] = answer
    body = "x" * 10_000
    await actions.made("full", step("send", "http", url=f"{target.url}/", method="POST", body=body))

    with pytest.raises(ActionFailed, match=r"The step send failed: .* answered 500"):
        await run("full")

    send = (await actions.steps("full"))[0]
    assert (send["status"], send["input"]) == ("failed", None)
    assert "answered 500" in send["error"]
