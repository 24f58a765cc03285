"""What is kept of runs, by what Prefect says of them."""

from typing import Any

import pytest

from deployments.letters import ended

AT, LATER = "2026-03-01T07:00:00+00:00", "2026-03-01T07:05:00+00:00"


def run(state: str, start: str | None = AT, **said: Any) -> dict[str, Any]:
    return {
        "id": "3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60",
        "deployment_id": "8f14e45f-ceea-467f-9d5c-0a3d1b2c3d4e",
        "start_time": start,
        "end_time": LATER,
        "expected_start_time": AT,
        "state_type": state,
        "state_name": state.title(),
        "state": {"message": "No answer.", "name": state.title(), "type": state},
        "parameters": {},
        "run_count": 1,
        "labels": {},
        "created_by": None,
        "auto_scheduled": True,
        **said,
    }


@pytest.mark.parametrize("state", ["CRASHED", "FAILED"])
def test_a_run_that_ends_badly_before_it_begins_has_failed(state: str) -> None:
    found = ended(run(state, start=None))
    assert found is not None
    assert found.failure is not None
    assert found.started_at == found.ended_at


def test_a_run_that_is_cancelled_before_it_begins_has_no_beginning() -> None:
    found = ended(run("CANCELLED", start=None))
    assert found is not None
    assert (found.cancelled, found.started_at, found.failure) == (True, None, None)
    assert ended(run("CANCELLED", deployment_id=None)) is None
