"""A tenant that is suspended while a thousand of its definitions are due."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.acceptance.house import Up, running, wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(400),
    # Beside other tests, a thousand deployments take longer than there is time until they are due.
    pytest.mark.skipif("CI" in os.environ, reason="it needs the machine for itself"),
]

DEFINITIONS = 1000


def started(up: Up, after: datetime) -> int:
    """Counts the tenant's runs that began after an instant."""
    answer = httpx.post(
        f"http://127.0.0.1:{up.prefect}/api/flow_runs/count",
        json={
            "deployments": {"name": {"like_": "busy."}},
            "flow_runs": {
                # Prefect takes the nominal time of those that have not begun.
                "start_time": {"after_": after.isoformat()},
                "state": {"type": {"any_": ["RUNNING", "COMPLETED", "FAILED", "CRASHED"]}},
            },
        },
        timeout=30,
    )
    return int(answer.raise_for_status().json())


def test_nothing_of_it_starts_from_two_seconds_after_the_call_on(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        wait_until(lambda: up.call("GET", "tenants").is_success, 60, "the API")
        # A full minute that leaves time for a thousand deployments.
        due = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=2)
        due += (
            timedelta(minutes=1)
            if due < datetime.now(UTC) + timedelta(seconds=100)
            else timedelta()
        )
        assert up.call("POST", "tenants", {"slug": "busy"}).status_code == 201
        definitions = [
            {
                "name": f"duty-{number}",
                "duty": "workflow_run",
                "cron": f"{due.minute} {due.hour} * * *",
                "parameters": {"workflow_id": "heartbeat"},
            }
            for number in range(DEFINITIONS)
        ]
        put = up.call("PUT", "tenants/busy/definitions", {"definitions": definitions})
        assert len(put.json()["created"]) == DEFINITIONS
        assert up.call("POST", "tenants/busy/definitions/duty-1/pause", {}).status_code == 200
        applied = "select count(*) from definitions where tenant = 'busy' and applied_at notnull"
        wait_until(lambda: up.sql(applied) == str(DEFINITIONS), 170, "every deployment")
        assert datetime.now(UTC) < due, "they were applied too late"
        wait_until(lambda: started(up, due) >= 20, 180, "the first runs")

        assert up.call("POST", "tenants/busy/suspend", {"reason": "test"}).status_code == 200
        called = datetime.now(UTC)
        added = {**definitions[0], "name": "added"}
        assert up.call("POST", "tenants/busy/definitions", added).status_code == 201
        refused = up.call("POST", "tenants/busy/definitions/added/run", {})
        assert refused.status_code == 409
        time.sleep(15)  # long enough for hundreds more, had they not been stopped
        before = started(up, due)
        assert before < DEFINITIONS - 100, "it was suspended too late to prove anything"
        assert started(up, called + timedelta(seconds=2)) == 0

        assert up.call("POST", "tenants/busy/resume").status_code == 200
        wait_until(lambda: started(up, called) > 20, 60, "what was due goes on")
        paused = up.call("GET", "tenants/busy/definitions/duty-1").json()
        assert (paused["enabled"], paused["state"]) == (False, "paused")
