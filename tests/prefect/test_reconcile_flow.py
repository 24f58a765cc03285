"""The sweep as a flow, as a worker runs it: in a process of its own."""

import asyncio
import json
import sys
from typing import Any

import pytest

RUN = """
import asyncio, json, sys
from flows.reconcile import reconcile
state = asyncio.run(reconcile(**json.loads(sys.argv[1]), return_state=True))
print(json.dumps([state.name, state.message]))
"""


@pytest.fixture(autouse=True)
def _database(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    monkeypatch.setenv("ROTA_DATABASE_URL", database_url)


async def _reconcile(**parameters: Any) -> list[str]:
    """Runs the flow, and returns its state's name and message."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUN,
        json.dumps(parameters),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    return json.loads(said.splitlines()[-1])


async def _plan(house) -> list[dict[str, str]]:
    """Reads the newest artifact with the plan."""
    body = {"artifacts": {"key": {"any_": ["rota-plan"]}}, "sort": "CREATED_DESC", "limit": 1}
    [artifact] = await house.call("POST", "/artifacts/filter", body)
    return json.loads(artifact["data"])


async def test_a_dry_run_shows_the_plan_and_does_nothing(house):
    await house.define("one")
    await house.define("bad", cron="0 0 30 2 *")

    _, message = await _reconcile(dry_run=True)

    assert message == "1 to create, 0 unchanged, 1 with a problem"
    assert await house.deployments() == {}
    assert [row["change"] for row in await _plan(house)] == ["create", "problem"]


async def test_a_run_mends_what_differs(house):
    await house.define("one")

    assert (await _reconcile())[0] == "Completed"

    assert (await house.deployments()).keys() == {"one"}
    assert (await _plan(house))[0]["definition"] == f"{house.tenant}/one"


async def test_a_policy_holds_back_what_it_does_not_allow(house):
    await house.define("gone")
    await house.settle()
    await house.remove("gone")

    await _reconcile(policy="upsert-only")

    assert (await house.deployments()).keys() == {"gone"}


async def test_a_change_that_fails_fails_the_run(house):
    await house.define("one", job_variables={"working_dir": {"no": "path"}})

    name, message = await _reconcile()

    assert name == "Failed"
    assert "1 of 1 changes failed" in message
