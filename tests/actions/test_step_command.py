"""Steps that run commands on the worker."""

import time

import pytest

from flows.run_action import ActionFailed, run_action
from tests.actions.conftest import step

pytestmark = pytest.mark.usefixtures("log")


@pytest.fixture(autouse=True)
def _allowed(monkeypatch):
    monkeypatch.setenv("ROTA_ALLOW_COMMANDS", "1")


async def run(name):
    return await run_action(name, tenant="acme", input={"name": "$(id); `id`"})


async def test_a_command_has_what_comes_from_elsewhere_in_its_environment(actions, log):
    name = {"$template": "{{ input.name }}"}
    said = 'echo "Hello $NAME of $ROTA_TENANT"; test -n "$ROTA_IDEMPOTENCY_KEY"'
    await actions.made("hi", step("hi", "command", command=said, environment={"NAME": name}))

    output = await run("hi")

    assert output == {"exit_code": 0, "output": "Hello $(id); `id` of acme\n"}


async def test_a_command_is_no_template(actions):
    answer = await actions.put("hi", step("hi", "command", command={"$template": "echo a"}))

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "steps.0.input.command"


async def test_a_command_that_never_stops_writing_does_not_fill_the_log(actions, caplog):
    await actions.made("much", step("much", "command", command="seq 10050; echo last"))

    output = await run("much")

    assert output["output"].endswith("10050\nlast\n")
    assert "The log ends here, after 10000 lines" in caplog.text
    assert sum(one.isdecimal() for one in caplog.messages) == 10_000


async def test_an_exit_code_other_than_0_fails_the_step(actions):
    await actions.made("fails", step("fail", "command", command="echo so; echo why >&2; exit 3"))

    with pytest.raises(ActionFailed, match="The step fail failed: exit code 3: why"):
        await run("fails")


async def test_a_command_ends_at_the_step_s_time_limit(actions):
    await actions.made("slow", step("slow", "command", command="sleep 60", timeout_seconds=0.5))
    began = time.monotonic()

    with pytest.raises(ActionFailed, match=r"it took more than 0\.5 s"):
        await run("slow")

    assert time.monotonic() - began < 20


async def test_a_worker_runs_none_unless_it_is_allowed_to(actions, monkeypatch):
    await actions.made("hi", step("hi", "command", command="echo a", retries=3))
    monkeypatch.delenv("ROTA_ALLOW_COMMANDS")

    with pytest.raises(ActionFailed, match="This worker does not run commands"):
        await run("hi")
