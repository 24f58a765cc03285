import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from deployments.gateway import PrefectUnavailable

MINUTE = timedelta(minutes=1)
EDITS = 100


def _next_minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0) + MINUTE


async def _clock_shows(at: datetime) -> None:
    while datetime.now(UTC) < at:  # noqa: ASYNC110 - the clock has no event
        await asyncio.sleep(0.01)


async def _settled(house) -> None:
    """Tries as `watch` does: on SQLite, Prefect may be locked for a while by its own services."""
    for _ in range(5):
        with suppress(PrefectUnavailable):
            return await house.settle()
    return await house.settle()


@pytest.mark.wall_clock
@pytest.mark.acceptance
async def test_a_hundred_edits_over_a_full_minute_lose_and_double_no_occurrence(house, proxy):
    await house.define("minutely")
    await house.step()
    first = (await house.runs("minutely"))[0]
    boundary = _next_minute(datetime.now(UTC) + timedelta(seconds=8))
    held = []

    async def hold(call) -> None:
        """Keeps one edit between dropping the runs and making them, over the full minute."""
        near = boundary - timedelta(seconds=0.6)
        if call.path.endswith("/schedule") and near < datetime.now(UTC) < boundary:
            held.append(call)
            await _clock_shows(boundary + timedelta(seconds=0.1))

    proxy.gate = hold
    await _clock_shows(boundary - timedelta(seconds=7))
    for number in range(EDITS):
        # Ten a second at the most, so that they reach over the full minute on a fast machine too.
        await _clock_shows(boundary + timedelta(seconds=number / 10 - 7))
        await house.change("minutely", parameters={"workflow_id": f"w{number}"})
        await _settled(house)

    assert len(held) == 1
    assert datetime.now(UTC) > boundary
    runs = await house.runs("minutely")
    assert len(runs) >= 15
    assert runs == [first + number * MINUTE for number in range(len(runs))]
    assert boundary in runs
    latest = await house.call(
        "POST",
        "/flow_runs/filter",
        {
            "flow_runs": {
                "deployment_id": {"any_": [(await house.deployment("minutely"))["id"]]},
                "expected_start_time": {"after_": _next_minute(datetime.now(UTC)).isoformat()},
            }
        },
    )
    assert {run["parameters"]["workflow_id"] for run in latest} == {f"w{EDITS - 1}"}


async def test_edits_that_leave_the_schedule_alone_leave_its_occurrences_alone(house):
    await house.define("minutely")
    await house.step()
    before = set(await house.runs("minutely"))

    for number in range(10):
        await house.change("minutely", retries=number + 1, title=f"edit {number}")
        await house.settle()

    after = await house.runs("minutely")
    assert before <= set(after)
    assert len(after) == len(set(after))


async def test_a_schedule_that_moves_leaves_no_occurrence_of_the_old_one(house):
    await house.define("moving", cron="0 3 * * *")
    await house.step()

    for hour in (4, 5, 3, 6):
        await house.change("moving", cron=f"30 {hour} * * *")
        await house.settle()
        due = datetime.now(UTC).replace(hour=hour, minute=30, second=0, microsecond=0)
        due += timedelta(days=1) if due < datetime.now(UTC) else timedelta()
        await house.comes_to_rest_at("moving", [due, due + timedelta(days=1)])
