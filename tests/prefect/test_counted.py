"""What Prefect says of runs is counted, whatever others have written into it."""

from typing import Any

import pytest

from deployments.counting import count_runs

LETTER = "9b1d7f60-3c2a-4f5e-8a41-6d0c2e7b9f13"
OCCURRENCE = "2026-03-01T07:00:00+00:00"


def _nested(times: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(times):
        value = {"a": value}
    return value


async def _fails(
    house: Any, state: str = "Failed", message: str = "no", due: Any = None, **body: Any
) -> None:
    body |= {"state": due} if due else {}
    deployment = (await house.deployment("a"))["id"]
    run = await house.call("POST", f"/deployments/{deployment}/create_flow_run", body)
    for one in ({"type": "RUNNING"}, {"type": "FAILED", "name": state, "message": message}):
        body = {"state": one, "force": True}
        await house.call("POST", f"/flow_runs/{run['id']}/set_state", body)


def _labelled(occurrence: Any = OCCURRENCE, letter: Any = LETTER, **others: Any) -> dict[str, Any]:
    labels = {"rota.occurrence": occurrence, "rota.letter": letter, "rota.trigger": "schedule"}
    return {"labels": labels | others}


def _due(at: str) -> dict[str, Any]:
    return {"due": {"type": "SCHEDULED", "state_details": {"scheduled_time": at}}}


@pytest.mark.parametrize(
    "what",
    [
        _labelled("2026-03-01T07:00:00"),
        _labelled("0001-01-01T00:00:00+14:00"),
        _labelled("9999-12-31T23:59:59-14:00"),
        _labelled("1001-01-01T00:00:00+00:00"),
        _labelled(20260301),
        _labelled(letter=True),
        {"labels": {"rota.put_off": -(2**40)}},
        {"labels": {"rota.put_off": -(2**31) + 1}},
        {"state": "a\0b"},
        {"parameters": {"input": _nested(100)}},
        {"parameters": {"input": {"a\0b": ["\0", 2**63, 1e308]}}},
        {"message": "a\0b"},
        _due("0001-01-02T00:00:00+00:00"),
        _due("9998-01-01T00:00:00+00:00"),
    ],
    ids=repr,
)
async def test_a_run_with_anything_in_it_is_counted_and_kept(house: Any, what: Any) -> None:
    await house.define("a", cron=None)
    await house.settle()
    await _fails(house)
    await _fails(house, **what)  # the last, whose state the row repeats

    assert len(await count_runs(house.engine, house.gateway)) == 2

    assert (await house.row("a"))["run_count"] == 2
    assert await house.sql.fetchval("select count(*) from dead_letters") == 2
