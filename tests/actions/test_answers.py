"""What others answer: secrets that they repeat, and values that nobody can keep."""

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from prefect import get_client
from prefect.blocks.system import Secret
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from blocks import WorkflowService
from flows.run_action import ActionFailed, run_action
from tests.actions.conftest import latest_run, replied, step

pytestmark = pytest.mark.usefixtures("log")

KEY = 's3"c/r\\e t-of-acme'
PASSWORD = 'pä"ss/w\\o rd'
BASIC = "Basic " + base64.b64encode(f"ops:{PASSWORD}".encode()).decode()


async def run(name, **parameters):
    return await run_action(name, tenant="acme", **parameters)


def forms(secret):
    once = json.dumps(secret)[1:-1]
    return {
        "plain": secret,
        "json": once,
        "slashes": once.replace("/", "\\/"),
        "units": "".join(f"\\u{ord(char):04x}" for char in secret),
        "twice": json.dumps(once)[1:-1],
        "path": quote(secret, safe=""),
        "query": quote_plus(secret),
        "base64": base64.b64encode(secret.encode()).decode(),
    }


SHOWN = [form for secret in (KEY, PASSWORD, BASIC) for form in forms(secret).values()]
SHOWN += [KEY.lower(), BASIC.removeprefix("Basic ")]


async def everything_shown(actions, log):
    """All that is left of the latest run: its log, the states of it and of its tasks, records."""
    flow_run = await latest_run()
    async with get_client() as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
        tasks = await client.read_task_runs(flow_run_filter=chosen)
    states = [f"{one.state.message}" for one in (flow_run, *tasks) if one.state]
    records = json.dumps(await actions.steps("secretly"), ensure_ascii=False)
    return "\n".join([log.text, *states, records])


@pytest.fixture
async def secretly(actions, target):
    """Yields what makes and runs an action whose step sends both secrets to a path."""
    await Secret(value=KEY).asave("acme--key", overwrite=True)
    await Secret(value=BASIC).asave("acme--basic", overwrite=True)
    headers = {"X-Key": {"$secret": "key"}, "Authorization": {"$secret": "basic"}}

    async def do(path="/"):
        await actions.made(
            "secretly", step("fetch", "http", url=target.url + path, headers=headers)
        )
        return await run("secretly")

    yield do
    await Secret.adelete("acme--key")
    await Secret.adelete("acme--basic")


def check_hidden(shown):
    for form in SHOWN:
        assert form not in shown, form
        assert json.dumps(form)[1:-1] not in shown, form


async def test_a_secret_is_sent_and_shown_nowhere(secretly, actions, target, log):
    said = {secret: forms(secret) for secret in (KEY, PASSWORD, BASIC)}
    repeated = {f"X-{n}": form for n, form in enumerate(SHOWN) if form.isascii()}
    raw = json.dumps(said).replace("/", "\\/").encode()
    target.answers["/"] = (200, {"Content-Type": "application/json", **repeated}, raw)

    output = await secretly()

    seen = target.seen[0].headers
    assert (seen["x-key"], seen["authorization"]) == (KEY, BASIC)
    assert json.loads(raw) == said
    assert output["status"] == 200
    assert "**********" in output["body"]
    [fetch] = await actions.steps("secretly")
    assert fetch["input"]["headers"]["X-Key"] == {"$secret": "key"}
    check_hidden(f"{await everything_shown(actions, log)} {output}")


async def test_a_secret_in_a_text_that_is_no_json_is_hidden(secretly, target, log):
    for media in ("text/html", "application/json"):
        text = f"<{'> <'.join(SHOWN)}>"
        target.answers["/"] = (200, {"Content-Type": media}, text.encode())

        output = await secretly()

        assert isinstance(output["body"], str)
        check_hidden(f"{log.text} {output}")


@pytest.mark.parametrize("form", forms(KEY))
async def test_a_secret_in_an_error_is_hidden(secretly, actions, target, log, form):
    target.answers["/"] = (500, {}, f"no: {forms(PASSWORD)[form]} {forms(KEY)[form]}".encode())

    with pytest.raises(ActionFailed, match="answered 500: no: "):
        await secretly()

    check_hidden(await everything_shown(actions, log))


@pytest.mark.parametrize("leads_to", ["status", "loop", "name", "port", "garbage"])
async def test_a_secret_in_a_redirect_is_hidden(secretly, actions, target, log, leads_to):
    path = f"/{quote(KEY, safe='')}/{quote(PASSWORD, safe='')}?k={quote_plus(KEY)}"
    to = {
        "name": "http://s3cret.invalid" + path,
        "port": "http://127.0.0.1:99999" + path,
        "garbage": f"http://{quote(KEY, safe='')}:x{KEY}/",
    }.get(leads_to, path)
    target.answers["/"] = (302, {"Location": to}, b"")
    target.answers[path] = (302, {"Location": path}, b"") if leads_to == "loop" else (404, {}, b"")

    with pytest.raises(ActionFailed, match="The step fetch failed"):
        await secretly()

    check_hidden(await everything_shown(actions, log))


async def test_a_workflow_services_token_is_hidden_in_what_it_answers(actions, target, log):
    await WorkflowService(base_url=target.url, token="t0k/en-1").asave("tells", overwrite=True)
    await actions.made("starts", step("go", "workflow", workflow_id="wf", service="tells"))
    target.answers["/api/workflow/wf/execute"] = replied({"executionId": "t0k/en-1"})

    assert await run("starts") == {"execution": "**********"}
    target.answers["/api/workflow/wf/execute"] = (
        400,
        {},
        rb'{"no": "t0k\/en-1", "\u0000": 1}' + b"\0",
    )
    with pytest.raises(ActionFailed, match=r'"no": "\*+"'):
        await run("starts")

    [go] = await actions.steps("starts")
    assert (go["status"], "en-1" in log.text) == ("failed", False)
    await WorkflowService.adelete("tells")


UNKEPT = {
    "infinite": (b'{"n": 1e999}', "put out what cannot be recorded: inf in it is no number"),
    "large": (b'{"n": 9223372036854775808}', "cannot be recorded: a number in it has more than 64"),
    "huge": (b"[" + b"9" * 5000 + b"]", "A number in the answer's JSON has more than 64 bits"),
    "deep": (b"[" * 70 + b"1" + b"]" * 70, "cannot be recorded: it is nested more than 64 deep"),
    "deepest": (b"[" * 9000 + b"]" * 9000, "The answer's JSON is nested more than 64 deep"),
}


@pytest.mark.parametrize("what", UNKEPT)
async def test_an_answer_that_cannot_be_kept_fails_the_step_and_says_why(actions, target, what):
    content, why = UNKEPT[what]
    target.answers["/"] = (200, {"Content-Type": "application/json"}, content)
    await actions.made("strange", step("fetch", "http", url=f"{target.url}/", retries=3))

    with pytest.raises(ActionFailed, match="The step fetch failed: ") as failed:
        await run("strange")

    assert why in str(failed.value)
    [fetch] = await actions.steps("strange")
    assert (fetch["status"], len(target.seen)) == ("failed", 1)
    assert why in fetch["error"]


async def test_what_no_database_takes_of_an_answer_is_replaced(actions, target):
    content = rb'{"a\u0000": ["\ud800", "\u0000"]}'
    target.answers["/"] = (200, {"Content-Type": "application/json"}, content)
    await actions.made("strange", step("fetch", "http", url=f"{target.url}/"))

    assert (await run("strange"))["body"] == {"a\ufffd": ["\ufffd", "\ufffd"]}
    target.answers["/"] = (500, {}, b"a\0b\xff")
    with pytest.raises(ActionFailed, match="answered 500: a\ufffdb\ufffd"):
        await run("strange")
    [fetch] = await actions.steps("strange")
    assert fetch["status"] == "failed"


async def test_json_that_is_none_is_a_text(actions, target):
    target.answers["/"] = (200, {"Content-Type": "application/json"}, b'{"n": NaN}')
    await actions.made("strange", step("fetch", "http", url=f"{target.url}/"))

    assert (await run("strange"))["body"] == '{"n": NaN}'


@pytest.mark.parametrize("text", [r"{{ 'a\x00b' }}", r"{{ '\ud800' }}"])
async def test_an_input_that_cannot_be_kept_is_not_sent(actions, target, text):
    body = {"$template": text}
    await actions.made("strange", step("send", "http", url=f"{target.url}/", body=body))

    with pytest.raises(ActionFailed, match="The step send failed: "):
        await run("strange")

    [send] = await actions.steps("strange")
    assert (send["status"], target.seen) == ("failed", [])


async def test_a_number_from_elsewhere_that_cannot_be_kept_is_not_taken_in(actions, target):
    value = {"$from": "input.n"}
    await actions.made("strange", step("send", "http", url=f"{target.url}/", json=value))

    with pytest.raises(ActionFailed, match="It would take in what cannot be recorded: a number"):
        await run("strange", input={"n": 2**63})

    [send] = await actions.steps("strange")
    assert (send["status"], target.seen) == ("failed", [])


async def test_bytes_of_a_command_that_are_no_text_are_replaced(actions, monkeypatch):
    monkeypatch.setenv("ROTA_ALLOW_COMMANDS", "1")
    await actions.made("bytes", step("go", "command", command=r"printf '\000\377\355\240\200'"))

    output = (await run("bytes"))["output"]

    assert set(output) == {"\ufffd"}
    [go] = await actions.steps("bytes")
    assert (go["status"], go["output"]["output"]) == ("completed", output)
