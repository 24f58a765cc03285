"""What Prefect's scheduler may leave behind when a write falls between its two transactions."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from store import changes


@pytest.fixture
def interfere(prefect_home: Path) -> Callable[..., int]:
    """Returns a function that makes runs look as the scheduler leaves them: of a version before."""

    def interfere(deployment_id: str, **columns: str) -> int:
        sets = ", ".join(f"{column} = ?" for column in columns)
        with sqlite3.connect(prefect_home / "prefect.db", timeout=30) as database:
            changed = database.execute(
                f"update flow_run set {sets} where replace(deployment_id, '-', '') = ? "
                "and state_type = 'SCHEDULED'",
                (*columns.values(), deployment_id.replace("-", "")),
            )
            return changed.rowcount

    return interfere


async def _look(house) -> None:
    """Has the second look due at once, and takes it."""
    await house.sql.execute("update changes set due_at = now() where operation = 'settle'")
    assert await changes.begin(house.engine) is not None
    await house.sql.execute("update changes set due_at = now()")
    await house.step()


async def test_runs_of_the_version_before_are_made_anew(house, interfere):
    await house.define("edited")
    await house.step()
    await house.change("edited", parameters={"workflow_id": "new"})
    await house.settle()
    deployment = await house.deployment("edited")
    due = await house.runs("edited")
    assert interfere(deployment["id"], deployment_version="0000", parameters="{}") == len(due)

    await _look(house)

    found = await house.call(
        "POST", "/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}}
    )
    assert {run["deployment_version"] for run in found} == {deployment["version"]}
    assert {run["parameters"].get("workflow_id") for run in found} == {"new"}
    assert set(await house.runs("edited")) >= set(due)


async def test_runs_that_come_back_to_a_paused_deployment_go_away(house, interfere):
    await house.define("paused")
    await house.step()
    await house.change("paused", enabled=False)
    await house.settle()
    deployment = await house.deployment("paused")
    await house.call("POST", f"/deployments/{deployment['id']}/schedule", {})
    assert await house.runs("paused") != []

    await _look(house)

    assert await house.runs("paused") == []


async def test_a_second_look_at_what_is_right_writes_nothing(house, proxy):
    await house.define("right")
    await house.step()
    await house.change("right", parameters={"workflow_id": "new"})
    await house.settle()
    proxy.calls.clear()

    await _look(house)

    assert {call.path.rsplit("/", 1)[-1] for call in proxy.calls} == {"filter"}


async def test_looks_come_to_an_end(house, sql):
    await house.define("edited")
    await house.step()
    await house.change("edited", title="again")
    await house.settle()

    for seconds in (0, 2):  # of three
        assert await sql.fetchval("select count(*) from changes") == 1
        await sql.execute(
            "update changes set due_at = now(), "
            "started_at = started_at - make_interval(secs => $1)",
            seconds,
        )
        await house.step()

    assert await sql.fetchval("select count(*) from changes") == 0


async def test_a_late_note_of_an_old_definition_spares_the_one_that_took_its_name(house, sql):
    old = await house.define("reused")
    await house.step()
    await house.remove("reused")
    await house.define("reused")
    await house.settle()
    made = await house.deployment("reused")

    await sql.execute(
        "insert into changes (operation, tenant, name, definition_id) values "
        "('settle', $1, 'reused', $2)",
        house.tenant,
        old,
    )
    await house.step()

    assert (await house.deployment("reused"))["id"] == made["id"]
