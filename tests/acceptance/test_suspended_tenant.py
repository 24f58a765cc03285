"""A tenant that is suspended while a thousand of its definitions are due."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.house import Up, running, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

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


def waiting(up: Up) -> int:
    """Counts the tenant's runs that are due and have not begun."""
    answer = httpx.post(
        f"http://127.0.0.1:{up.prefect}/api/flow_runs/count",
        json={
            "deployments": {"name": {"like_": "busy."}},
            "flow_runs": {
                "state": {"type": {"any_": ["SCHEDULED"]}},
                "expected_start_time": {"before_": datetime.now(UTC).isoformat()},
            },
        },
        timeout=30,
    )
    return int(answer.raise_for_status().json())


def definition(name: str, due: datetime) -> dict[str, Any]:
    """Returns a definition that is due at an instant, and then for a long while not."""
    return {
        "name": name,
        "duty": "workflow_run",
        "interval_seconds": 60 * 86400,
        "anchor_at": due.isoformat(),
        "parameters": {"workflow_id": "heartbeat"},
    }


def test_nothing_of_it_starts_from_two_seconds_after_the_call_on(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        wait_until(lambda: up.call("GET", "tenants").is_success, 60, "the API")
        assert up.call("POST", "tenants", {"slug": "busy"}).status_code == 201
        # By then all deployments are there, or the runs would hold up those that are to come.
        due = datetime.now(UTC) + timedelta(seconds=80)
        definitions = [definition(f"duty-{number}", due) for number in range(DEFINITIONS)]
        put = up.call("PUT", "tenants/busy/definitions", {"definitions": definitions})
        assert len(put.json()["created"]) == DEFINITIONS
        assert up.call("POST", "tenants/busy/definitions/duty-1/pause", {}).status_code == 200
        wait_until(lambda: len(started(up, due)) >= 20, 180, "the first runs")
        left = waiting(up)

        assert up.call("POST", "tenants/busy/suspend", {"reason": "test"}).status_code == 200
        called = datetime.now(UTC)
        added = up.call("POST", "tenants/busy/definitions", definition("added", due))
        assert added.status_code == 201
        refused = up.call("POST", "tenants/busy/definitions/added/run", {})
        assert refused.status_code == 409
        time.sleep(8)  # long enough for hundreds more, had they not been stopped
        begun = started(up, due)
        assert left > len(begun) + 100, "it was suspended too late to prove anything"
        assert begun[0] < called + timedelta(seconds=2)

        assert up.call("POST", "tenants/busy/resume").status_code == 200
        run = "tenants/busy/definitions/duty-2/run"
        wait_until(lambda: up.call("POST", run, {}).status_code == 202, 150, "a deployment")
        later = called + timedelta(seconds=2)
        wait_until(lambda: started(up, due)[0] > later, 60, "what is asked for runs again")
        made = "select count(*) from definitions where tenant = 'busy' and deployment_id notnull"
        wait_until(lambda: up.sql(made) == str(DEFINITIONS + 1), 150, "every deployment")
        assert up.sql("select count(*) from definitions where problem notnull") == "0"
        paused = up.call("GET", "tenants/busy/definitions/duty-1").json()
        assert (paused["enabled"], paused["state"]) == (False, "paused")
