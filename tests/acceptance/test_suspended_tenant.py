"""A tenant that is suspended while a thousand of its definitions are due."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.states import Scheduled

from tests.acceptance.house import Up, running, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.wall_clock, pytest.mark.timeout(400)]

DEFINITIONS = 1001  # with so many, watch sweeps instead of reading them by name
BEGUN = ["RUNNING", "COMPLETED", "FAILED", "CRASHED"]


def started(up: Up, after: datetime) -> list[datetime]:
    """Returns when the tenant's runs began that began after an instant, the last ones first."""
    answer = httpx.post(
        f"http://127.0.0.1:{up.prefect}/api/flow_runs/filter",
        json={
            "deployments": {"name": {"like_": "busy."}},
            "flow_runs": {
                # Prefect takes the nominal time of those that have not begun.
                "start_time": {"after_": after.isoformat()},
                "state": {"type": {"any_": BEGUN}},
            },
            "sort": "START_TIME_DESC",
        },
        timeout=30,
    )
    return [datetime.fromisoformat(run["start_time"]) for run in answer.raise_for_status().json()]


def deployments(up: Up) -> Iterator[str]:
    """Yields the ids of the tenant's deployments."""
    for offset in range(0, DEFINITIONS, 200):
        answer = httpx.post(
            f"http://127.0.0.1:{up.prefect}/api/deployments/filter",
            json={"deployments": {"name": {"like_": "busy."}}, "offset": offset, "limit": 200},
            timeout=30,
        )
        yield from (one["id"] for one in answer.raise_for_status().json())


async def make_due(up: Up, ids: Iterator[str], due: datetime) -> None:
    """Makes a run of each deployment, due at an instant, as Prefect's scheduler would."""

    async def work(client: PrefectClient) -> None:
        for one in ids:
            await client.create_flow_run_from_deployment(
                UUID(one), state=Scheduled(scheduled_time=due)
            )

    async with PrefectClient(f"http://127.0.0.1:{up.prefect}/api") as client:
        await asyncio.gather(*(work(client) for _ in range(4)))


def definition(name: str) -> dict[str, Any]:
    """Returns a definition that is not due for a long while."""
    far = datetime.now(UTC) + timedelta(days=60)
    return {
        "name": name,
        "duty": "workflow_run",
        "cron": f"0 0 {far.day} {far.month} *",
        "parameters": {"workflow_id": "heartbeat"},
    }


def test_nothing_of_it_starts_from_two_seconds_after_the_call_on(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        wait_until(lambda: up.call("GET", "tenants").is_success, 60, "the API")
        assert up.call("POST", "tenants", {"slug": "busy"}).status_code == 201
        definitions = [definition(f"duty-{number}") for number in range(DEFINITIONS)]
        put = up.call("PUT", "tenants/busy/definitions", {"definitions": definitions})
        assert len(put.json()["created"]) == DEFINITIONS
        assert up.call("POST", "tenants/busy/definitions/duty-1/pause", {}).status_code == 200
        applied = "select count(*) from definitions where tenant = 'busy' and applied_at notnull"
        wait_until(lambda: up.sql(applied) == str(DEFINITIONS), 170, "every deployment")
        assert up.sql("select count(*) from definitions where problem notnull") == "0"
        due = datetime.now(UTC) + timedelta(seconds=30)
        asyncio.run(make_due(up, deployments(up), due))
        wait_until(lambda: len(started(up, due)) >= 20, 180, "the first runs")

        assert up.call("POST", "tenants/busy/suspend", {"reason": "test"}).status_code == 200
        called = datetime.now(UTC)
        assert up.call("POST", "tenants/busy/definitions", definition("added")).status_code == 201
        refused = up.call("POST", "tenants/busy/definitions/added/run", {})
        assert refused.status_code == 409
        time.sleep(8)  # long enough for hundreds more, had they not been stopped
        begun = started(up, due)
        assert len(begun) < DEFINITIONS - 100, "it was suspended too late to prove anything"
        assert begun[0] < called + timedelta(seconds=2)

        assert up.call("POST", "tenants/busy/resume").status_code == 200
        wait_until(lambda: len(started(up, called)) > 20, 60, "what was due goes on")
        paused = up.call("GET", "tenants/busy/definitions/duty-1").json()
        assert (paused["enabled"], paused["state"]) == (False, "paused")
