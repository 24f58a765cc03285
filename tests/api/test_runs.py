"""What has run: the history of a definition, and the latest run of each."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from deployments.gateway import PAGE

# Yesterday, and long enough before now for nothing to come between.
BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)


@pytest.fixture
async def prefect(prefect_server: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of Prefect's own API."""
    async with httpx.AsyncClient(base_url=prefect_server, timeout=60) as client:
        yield client


@pytest.fixture
async def nightly(api: Any, definitions: str, a_definition: Any, watch: Any) -> str:
    """Makes a definition and its deployment, and returns its path."""
    await api.post(definitions, json=a_definition(cron="0 0 1 1 *"))
    await watch.settle()
    return f"{definitions}/nightly"


async def _run(api: Any, path: str, minutes: float, who: str = "admin", **body: Any) -> str:
    """Asks for a run that was due so many minutes after `BEGAN`; returns its id."""
    at = (BEGAN + timedelta(minutes=minutes)).isoformat()
    answer = await api.post(f"{path}/run", who, json={"at": at, **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def _sent(prefect: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    """Sends a request until Prefect's SQLite is not locked by Prefect's own services."""
    async with asyncio.timeout(60):
        while (answer := await prefect.post(path, json=body)).status_code == 503:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert answer.is_success, answer.text
    return answer.json()


async def _becomes(prefect: httpx.AsyncClient, run_id: str, *states: dict[str, Any]) -> None:
    """Takes a run through states, as a worker does."""
    for state in states:
        body = {"state": state, "force": True}
        await _sent(prefect, f"/flow_runs/{run_id}/set_state", body)


def _ids(page: dict[str, Any]) -> list[str]:
    return [one["id"] for one in page["items"]]


# -- one run


async def test_a_run_that_failed_is_told_with_its_error(
    api: Any, nightly: str, prefect: httpx.AsyncClient
) -> None:
    run_id = await _run(api, nightly, 0, "editor", parameters={"workflow_id": "x"})
    await _becomes(
        prefect,
        run_id,
        {"type": "RUNNING", "name": "Running"},
        {"type": "FAILED", "name": "Failed", "message": "The service does not answer."},
    )
    [found] = (await api.get(f"{nightly}/runs", "viewer")).json()["items"]
    assert found["id"] == run_id
    assert datetime.fromisoformat(found["occurrence"]) == BEGAN
    assert datetime.fromisoformat(found["started"]) > BEGAN
    assert datetime.fromisoformat(found["finished"]) >= datetime.fromisoformat(found["started"])
    assert (found["state"], found["attempts"]) == ("Failed", 1)
    assert found["error"] == found["message"] == "The service does not answer."
    assert found["by"] == "editor"
    assert found["parameters"] == {"workflow_id": "x"}
    assert found["result"] is None
    assert (await api.get(f"{nightly}/runs/{run_id}", "viewer")).json() == found


async def test_a_run_that_completed_has_no_error(
    api: Any, nightly: str, prefect: httpx.AsyncClient
) -> None:
    run_id = await _run(api, nightly, 0)
    await _becomes(
        prefect,
        run_id,
        {"type": "RUNNING", "name": "Running"},
        {"type": "COMPLETED", "name": "Completed", "message": "Execution 7 started.", "data": 7},
    )
    [found] = (await api.get(f"{nightly}/runs")).json()["items"]
    assert (found["state"], found["error"]) == ("Completed", None)
    assert found["message"] == "Execution 7 started."
    assert found["result"] == 7


async def test_a_run_that_waits_has_not_begun(api: Any, nightly: str) -> None:
    await _run(api, nightly, 0)
    [found] = (await api.get(f"{nightly}/runs")).json()["items"]
    assert found["state"] in ("Scheduled", "Late")
    assert (found["started"], found["finished"], found["attempts"]) == (None, None, 0)


async def test_a_run_of_another_definition_or_tenant_is_not_there(
    api: Any, nightly: str, definitions: str, a_definition: Any, watch: Any
) -> None:
    await api.post(definitions, json=a_definition("other", cron="0 0 1 1 *"))
    await watch.settle()
    run_id = await _run(api, nightly, 0)
    for path in (f"{definitions}/other", f"{definitions}/nothing"):
        assert (await api.get(f"{path}/runs/{run_id}")).status_code == 404
    answer = await api.get(f"{nightly}/runs/3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60")
    assert answer.status_code == 404
    assert (await api.get(f"{nightly}/runs/x")).status_code == 422
    assert (await api.get(f"{definitions}/other/runs")).json()["total"] == 0


# -- which


async def test_the_history_is_narrowed_by_state_time_and_who(
    api: Any, nightly: str, prefect: httpx.AsyncClient, watch: Any
) -> None:
    first = await _run(api, nightly, 0, "editor")
    second = await _run(api, nightly, 10, "admin")
    await _becomes(prefect, first, {"type": "FAILED", "name": "Failed"})
    await _becomes(prefect, second, {"type": "COMPLETED", "name": "Completed"})
    deployment = (await api.get(nightly)).json()["deployment_id"]
    window = {"start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T00:00:01Z"}
    await _sent(prefect, f"/deployments/{deployment}/schedule", {**window, "min_runs": 1})
    scheduled = (await api.get(f"{nightly}/runs", params={"by": "schedule"})).json()["items"]
    assert [one["by"] for one in scheduled] == ["schedule"]
    assert scheduled[0]["occurrence"] == "2026-01-01T00:00:00Z"
    third = scheduled[0]["id"]
    middle = (BEGAN + timedelta(minutes=5)).isoformat()
    for query, expected in (
        ({}, [second, first, third]),
        ({"state": "Failed"}, [first]),
        ({"state": ["Failed", "Completed"]}, [second, first]),
        ({"state": "Nonsense"}, []),
        ({"by": "editor"}, [first]),
        ({"by": "admin"}, [second]),
        ({"by": "nobody"}, []),
        ({"since": middle}, [second]),
        ({"until": middle}, [first, third]),
        ({"since": BEGAN.isoformat(), "until": BEGAN.isoformat()}, [first]),
        ({"since": "2030-01-01T00:00:00Z"}, []),
        ({"until": "2026-01-01T00:00:00Z", "by": "schedule"}, [third]),
    ):
        page = (await api.get(f"{nightly}/runs", params=query)).json()
        assert (_ids(page), page["total"]) == (expected, len(expected)), query
        keyed = (await api.get(f"{nightly}/runs", params={**query, "limit": 9})).json()
        assert keyed["items"] == page["items"], query


async def test_what_is_due_later_is_shown_only_if_it_is_asked_for(api: Any, nightly: str) -> None:
    later = await _run(api, nightly, 3 * 24 * 60)
    assert (await api.get(f"{nightly}/runs")).json()["items"] == []
    until = (BEGAN + timedelta(days=4)).isoformat()
    assert _ids((await api.get(f"{nightly}/runs", params={"until": until})).json()) == [later]


# -- page by page


async def test_the_history_is_read_page_by_page_both_ways_while_runs_come(
    api: Any, nightly: str, prefect: httpx.AsyncClient
) -> None:
    # Three are due at each instant, so that pages end between them.
    made = [await _run(api, nightly, number // 3) for number in range(10)]
    whole = _ids((await api.get(f"{nightly}/runs")).json())
    assert sorted(whole) == sorted(made)
    for limit in (1, 4, 10, 11):
        seen: list[str] = []
        last: dict[str, Any] = {"next": f"{nightly}/runs?limit={limit}"}
        while last["next"]:
            last = (await api.get(last["next"])).json()
            seen += _ids(last)
            if len(made) < 12:  # one that is due after all of them
                made.append(await _run(api, nightly, 100 + len(made)))
        assert seen[-10:] == sorted(whole, key=seen.index)
        assert len(seen) == len(set(seen))
        back = _ids(last)
        while last["previous"]:
            last = (await api.get(last["previous"])).json()
            back = _ids(last) + back
        assert back[-10:] == seen[-10:]
        assert sorted(back) == sorted(made)
    page = (await api.get(f"{nightly}/runs", params={"page_size": 5, "page": 2})).json()
    assert (page["total"], page["pages"]) == (12, 3)
    assert len(page["items"]) == 5


async def test_a_page_goes_on_where_it_was_though_its_run_is_gone(
    api: Any, nightly: str, prefect: httpx.AsyncClient
) -> None:
    made = [await _run(api, nightly, number) for number in range(4)]
    page = (await api.get(f"{nightly}/runs", params={"limit": 2})).json()
    assert _ids(page) == [made[3], made[2]]
    (await prefect.delete(f"/flow_runs/{made[2]}")).raise_for_status()
    assert _ids((await api.get(page["next"])).json()) == [made[1], made[0]]


async def test_no_run_is_lost_at_the_end_of_the_largest_page(
    api: Any, nightly: str, prefect: httpx.AsyncClient, watch: Any
) -> None:
    """Prefect answers no more at once than the largest page has."""
    await api.patch(nightly, json={"cron": "* * * * *"})
    await watch.settle()
    deployment = (await api.get(nightly)).json()["deployment_id"]
    for begins in (BEGAN, BEGAN + timedelta(minutes=130)):
        window = {
            "start_time": begins.isoformat(),
            "end_time": (begins + timedelta(minutes=130)).isoformat(),
        }
        body = {**window, "min_runs": 130, "max_runs": 130}
        await _sent(prefect, f"/deployments/{deployment}/schedule", body)
    total = (await api.get(f"{nightly}/runs")).json()["total"]
    assert total > PAGE + 20
    for limit in (PAGE, PAGE - 5):
        seen: list[str] = []
        last: dict[str, Any] = {"next": f"{nightly}/runs?limit={limit}"}
        while last["next"]:
            last = (await api.get(last["next"])).json()
            seen += _ids(last)
        assert len(set(seen)) == len(seen) == total


# -- the latest of each


async def test_the_latest_run_of_each_definition_is_told_by_name(
    api: Any, acme: str, definitions: str, a_definition: Any, watch: Any
) -> None:
    for name in ("b", "a", "c"):
        await api.post(definitions, json=a_definition(name, cron="0 0 1 1 *"))
    await watch.settle()
    await api.post(definitions, json=a_definition("d"))  # has no deployment yet
    latest = {}
    for name in ("a", "b"):
        await _run(api, f"{definitions}/{name}", 0)
        latest[name] = await _run(api, f"{definitions}/{name}", 5)
        await _run(api, f"{definitions}/{name}", 3 * 24 * 60)  # is not due yet
    page = (await api.get(f"/tenants/{acme}/latest-runs", "viewer")).json()
    assert page["total"] == 4
    found = {one["definition"]: one["run"] and one["run"]["id"] for one in page["items"]}
    assert list(found) == ["a", "b", "c", "d"]
    assert found == {**latest, "c": None, "d": None}
    seen: list[str] = []
    last: dict[str, Any] = {"next": f"/tenants/{acme}/latest-runs?limit=3"}
    while last["next"]:
        last = (await api.get(last["next"])).json()
        seen += [one["definition"] for one in last["items"]]
    assert seen == ["a", "b", "c", "d"]
    back = (await api.get(last["previous"])).json()
    assert [one["definition"] for one in back["items"]] == ["a", "b", "c"]
    numbered = (await api.get(f"/tenants/{acme}/latest-runs?page=2&page_size=3")).json()
    assert [one["definition"] for one in numbered["items"]] == ["d"]
