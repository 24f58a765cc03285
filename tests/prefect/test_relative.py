"""Definitions that are due once, so long after their previous run has ended."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deployments.counting import count_runs
from deployments.gateway import PAGE
from deployments.relative import wait_for_runs
from deployments.schedule import whole_second_from
from store import pause
from store.outcomes import UNDER_WAY

AFTER = timedelta(seconds=40)


@pytest.fixture
async def due(house: Any) -> datetime:
    """Makes the definition `after`, and its deployment; returns when it is due."""
    await house.define("after", after_seconds=int(AFTER.total_seconds()))
    await house.settle()
    return await _due(house)


async def _due(house: Any) -> datetime:
    return whole_second_from((await house.row("after"))["after_at"]) + AFTER


async def _look(house: Any) -> None:
    """Does what `watch` does every few seconds."""
    await count_runs(house.engine, house.gateway)
    await wait_for_runs(house.engine, house.gateway, datetime.now(UTC))
    await house.settle()


async def _asked_for(house: Any) -> str:
    deployment = (await house.deployment("after"))["id"]
    run = await house.call("POST", f"/deployments/{deployment}/create_flow_run", {})
    return str(run["id"])


async def _is(house: Any, run_id: str, *states: str) -> None:
    for state in states:
        body = {"state": {"type": state, "name": state.title()}, "force": True}
        await house.call("POST", f"/flow_runs/{run_id}/set_state", body)


async def _started(house: Any, run_id: str) -> str:
    return str((await house.call("GET", f"/flow_runs/{run_id}"))["expected_start_time"])


async def _the_run(house: Any, due: datetime) -> str:
    chosen = {
        "deployment_id": {"any_": [(await house.deployment("after"))["id"]]},
        "expected_start_time": {"after_": due.isoformat()},
    }
    [run] = await house.call("POST", "/flow_runs/filter", {"flow_runs": chosen})
    return str(run["id"])


async def test_it_is_one_run_so_long_after_it_was_written(house: Any, due: datetime) -> None:
    assert await house.runs("after") == [due]
    assert (await house.row("after"))["next_run_at"] == due


async def test_a_run_that_somebody_has_asked_for_moves_it(house: Any, due: datetime) -> None:
    run = await _asked_for(house)
    await _is(house, run, "PENDING", "RUNNING", "COMPLETED")
    ended = datetime.fromisoformat((await house.call("GET", f"/flow_runs/{run}"))["end_time"])

    await _look(house)

    assert (await house.row("after"))["after_at"] == ended
    await house.comes_to_rest_at("after", [whole_second_from(ended) + AFTER])


async def test_while_a_run_is_under_way_nothing_is_due(house: Any, due: datetime) -> None:
    run = await _asked_for(house)
    await _is(house, run, "PENDING", "RUNNING")

    await _look(house)
    await house.comes_to_rest_at("after", [])
    assert (await house.row("after"))["next_run_at"] is None
    await _look(house)
    await house.comes_to_rest_at("after", [])

    await _is(house, run, "COMPLETED")
    await _look(house)
    await house.comes_to_rest_at("after", [await _due(house)])


async def test_a_run_that_is_put_off_is_under_way(house: Any, due: datetime) -> None:
    run = await _asked_for(house)
    await _is(house, run, "PENDING", "RUNNING", "SCHEDULED")

    await _look(house)

    await house.comes_to_rest_at("after", [datetime.fromisoformat(await _started(house, run))])
    assert (await house.row("after"))["next_run_at"] is None


async def test_any_number_of_runs_of_others_are_seen_past(house: Any, due: datetime) -> None:
    await house.define("busy", after_seconds=int(AFTER.total_seconds()))
    await house.settle()
    await _is(house, await _asked_for(house), "PENDING", "RUNNING")
    deployment = (await house.deployment("busy"))["id"]
    for _ in range(PAGE // 100 + 1):
        many = [{"state": {"type": "RUNNING"}} for _ in range(100)]
        await house.call("POST", f"/deployments/{deployment}/create_flow_run/bulk", many)

    await wait_for_runs(house.engine, house.gateway, datetime.now(UTC))
    await wait_for_runs(house.engine, house.gateway, datetime.now(UTC))

    assert {(await house.row(name))["after_at"] for name in ("after", "busy")} == {UNDER_WAY}


async def test_an_end_that_was_not_counted_yet_is_counted_from(house: Any, due: datetime) -> None:
    run = await _asked_for(house)
    await _is(house, run, "PENDING", "RUNNING")
    await _look(house)

    await _is(house, run, "COMPLETED")
    await wait_for_runs(house.engine, house.gateway, datetime.now(UTC))

    ended = datetime.fromisoformat((await house.call("GET", f"/flow_runs/{run}"))["end_time"])
    assert (await house.row("after"))["after_at"] == ended


async def test_one_that_has_begun_beside_another_is_not_due_again(
    house: Any, due: datetime
) -> None:
    own, other = await _the_run(house, due), await _asked_for(house)
    await _is(house, own, "PENDING", "RUNNING")
    await _is(house, other, "PENDING", "RUNNING")
    await _look(house)
    assert (await house.row("after"))["after_at"] == UNDER_WAY

    await _is(house, own, "COMPLETED")
    await _look(house)
    assert (await house.row("after"))["after_at"] is None
    await _is(house, other, "COMPLETED")
    await _look(house)
    await house.comes_to_rest_at("after", [])


async def test_a_run_that_is_deleted_while_it_is_waited_for_is_waited_for_no_more(
    house: Any, due: datetime
) -> None:
    run = await _asked_for(house)
    await _is(house, run, "PENDING", "RUNNING")
    await _look(house)

    await house.call("DELETE", f"/flow_runs/{run}")
    await _look(house)

    await house.comes_to_rest_at("after", [await _due(house)])


async def test_when_it_has_run_nothing_more_is_due_until_it_is_resumed(
    house: Any, due: datetime
) -> None:
    run = await _the_run(house, due)
    await _is(house, run, "PENDING", "RUNNING")
    await _look(house)
    assert (await house.row("after"))["after_at"] + AFTER <= due  # it does not wait for itself

    await _is(house, run, "COMPLETED")
    await _look(house)

    row = await house.row("after")
    assert (row["after_at"], row["next_run_at"], row["problem"]) == (None, None, None)
    assert (await house.deployment("after"))["schedules"] == []
    await _is(house, await _asked_for(house), "PENDING", "RUNNING", "COMPLETED")
    await _look(house)
    await house.reconciler.sweep()
    await house.comes_to_rest_at("after", [])

    await pause.resume(house.engine, row["id"])
    await house.settle()
    await house.comes_to_rest_at("after", [await _due(house)])


async def test_one_whose_time_came_while_nobody_watched_is_run_late_and_once(house: Any) -> None:
    await house.define("after", after_seconds=40)
    long_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    await house.change("after", after_at=long_ago)

    await house.settle()
    assert await house.runs("after") == [long_ago + AFTER]
    await house.change("after", title="Edited since")
    await house.settle()
    await house.reconciler.sweep()
    assert await house.runs("after") == [long_ago + AFTER]
