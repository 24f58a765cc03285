from datetime import UTC, datetime, timedelta, timezone

import pytest

from flows.occurrence import NoOccurrence, Occurrence, current_occurrence


def _occurrence(at: datetime, definition_id: str | None = "d-1") -> Occurrence:
    return Occurrence(definition_id, "acme/noon", at, "schedule", "r-1")


@pytest.mark.parametrize(
    ("at", "time"),
    [
        (datetime(2026, 11, 21, 10, tzinfo=UTC), "2026-11-21T10:00:00Z"),
        (datetime(2026, 11, 21, 10, tzinfo=timezone(timedelta(hours=1))), "2026-11-21T09:00:00Z"),
        (datetime(2026, 11, 21, 10, 0, 0, 120_000, tzinfo=UTC), "2026-11-21T10:00:00.120000Z"),
    ],
)
def test_an_instant_has_one_form(at, time):
    assert _occurrence(at).time == time
    assert _occurrence(at).idempotency_key == f"d-1:{time}"


def test_without_a_definition_the_run_makes_the_key():
    at = datetime(2026, 11, 21, 10, tzinfo=UTC)

    assert _occurrence(at, definition_id=None).idempotency_key == "r-1:2026-11-21T10:00:00Z"


def test_outside_of_a_run_there_is_no_occurrence():
    with pytest.raises(NoOccurrence, match="call this inside of a flow run"):
        current_occurrence()
