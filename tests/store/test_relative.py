"""From when on `after_seconds` counts, and what runs that end make of it."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from store import pause, status
from store.outcomes import UNDER_WAY, Ended

DEPLOYMENT = UUID("8f14e45f-ceea-467f-9d5c-0a3d1b2c3d4e")


@pytest.fixture
async def written(sql: Any, nightly: UUID) -> datetime:
    """Makes `acme/nightly` due a minute after its runs; returns from when on that counts."""
    await sql.execute(
        "update definitions set cron = null, after_seconds = 60, deployment_id = $1", DEPLOYMENT
    )
    await sql.execute("delete from changes")
    return await _after_at(sql)


async def _after_at(sql: Any) -> Any:
    return await sql.fetchval("select after_at from definitions")


def ended(at: datetime, due: datetime | None = None) -> Ended:
    return Ended(str(uuid4()), DEPLOYMENT, at - timedelta(seconds=5), at, "Completed", due_at=due)


def cancelled(at: datetime, due: datetime | None = None) -> Ended:
    """Makes a run that was cancelled before it began."""
    return Ended(str(uuid4()), DEPLOYMENT, None, at, "Cancelled", due_at=due, cancelled=True)


async def test_it_counts_from_when_it_was_written(sql: Any, rows: Any) -> None:
    await rows.tenant()
    before = await sql.fetchval("select clock_timestamp()")
    await sql.execute(
        "insert into definitions (tenant, name, duty, after_seconds, after_at) "
        "values ('acme', 'a', 'workflow_run', 60, '2000-01-01 00:00Z')"
    )
    assert before < await _after_at(sql) < before + timedelta(minutes=1)


@pytest.mark.parametrize(
    "change",
    [
        "after_seconds = 61",
        "after_seconds = null; update definitions set after_seconds = 60",
        "enabled = false; update definitions set enabled = true",
        "paused_until = '2030-01-01 00:00Z'; update definitions set paused_until = null",
    ],
)
async def test_it_counts_anew_when_it_is_written_anew_or_resumed(
    sql: Any, written: datetime, change: str
) -> None:
    await sql.execute("update definitions set after_at = null")
    await sql.execute(f"update definitions set {change}")
    assert await _after_at(sql) > written


@pytest.mark.parametrize("change", ["after_seconds = 60", "title = 'x'", "enabled = true"])
async def test_other_writes_leave_what_it_counts_from(
    sql: Any, written: datetime, change: str
) -> None:
    await sql.execute(f"update definitions set {change}")
    assert await _after_at(sql) == written
    await sql.execute("update definitions set after_at = null")
    await sql.execute(f"update definitions set {change}")
    assert await _after_at(sql) is None


async def test_without_it_there_is_nothing_to_count_from(sql: Any, written: datetime) -> None:
    await sql.execute("update definitions set after_seconds = null")
    assert await _after_at(sql) is None


async def test_what_it_counts_from_is_noted_and_dates_no_row(
    sql: Any, rows: Any, written: datetime
) -> None:
    before = await sql.fetchrow("select updated_at, revision from definitions")
    await sql.execute("update definitions set after_at = null")
    assert await rows.notes() == [("update", "acme", "nightly")]
    assert await sql.fetchrow("select updated_at, revision from definitions") == before


async def test_it_counts_from_the_end_of_a_run_that_somebody_has_asked_for(
    engine: Any, sql: Any, written: datetime
) -> None:
    end = written + timedelta(seconds=30)
    await status.count(engine, [ended(end)])
    assert await _after_at(sql) == end


async def test_a_run_that_ended_before_it_was_written_counts_for_nothing(
    engine: Any, sql: Any, written: datetime
) -> None:
    await status.count(engine, [ended(written - timedelta(seconds=30))])
    assert await _after_at(sql) == written


async def test_a_run_of_the_schedule_before_is_one_like_any_other(
    engine: Any, sql: Any, written: datetime
) -> None:
    end = written + timedelta(seconds=30)
    await status.count(engine, [ended(end, due=written - timedelta(seconds=1))])
    assert await _after_at(sql) == end


async def test_once_it_has_run_nothing_is_due_whatever_runs(
    engine: Any, sql: Any, written: datetime
) -> None:
    due = written + timedelta(seconds=60)
    await status.count(engine, [ended(due + timedelta(seconds=9), due)])
    assert await _after_at(sql) is None
    await status.count(engine, [ended(due + timedelta(seconds=30))])
    assert await _after_at(sql) is None


@pytest.mark.parametrize("moved_to", [None, UNDER_WAY])
async def test_its_run_is_known_as_such_whatever_else_ran_beside_it(
    engine: Any, sql: Any, written: datetime, moved_to: datetime | None
) -> None:
    due = written + timedelta(seconds=60)
    if moved_to:
        await sql.execute("update definitions set after_at = $1", moved_to)
    else:
        await status.count(engine, [ended(due + timedelta(seconds=9))])
    assert await _after_at(sql) > due
    await status.count(engine, [ended(due + timedelta(seconds=30), due)])
    assert await _after_at(sql) is None


async def test_a_run_that_is_cancelled_before_it_begins_is_none_to_count_from(
    engine: Any, sql: Any, written: datetime
) -> None:
    for at in (written, UNDER_WAY):
        await sql.execute("update definitions set after_at = $1", at)
        await status.count(engine, [cancelled(written + timedelta(seconds=9))])
        assert await _after_at(sql) == at
    assert await sql.fetchval("select run_count from definitions") == 0


@pytest.mark.parametrize(("overlap", "over"), [("allow", True), ("queue", True), ("skip", False)])
async def test_when_its_run_is_cancelled_before_it_begins_nothing_more_is_due(
    engine: Any, sql: Any, written: datetime, overlap: str, over: bool
) -> None:
    await sql.execute("update definitions set overlap = $1", overlap)
    due = written + timedelta(seconds=60)
    await status.count(engine, [cancelled(due, due)])
    assert (await _after_at(sql) is None) == over
    # It was skipped for this one.
    end = due + timedelta(seconds=30)
    await status.count(engine, [ended(end)])
    assert await _after_at(sql) == (None if over else end)


async def test_it_counts_from_the_end_of_what_it_has_waited_for(
    engine: Any, sql: Any, written: datetime
) -> None:
    await sql.execute("update definitions set after_at = $1", UNDER_WAY)
    end = written + timedelta(seconds=30)
    await status.count(engine, [ended(end)])
    assert await _after_at(sql) == end


async def test_resuming_what_has_run_makes_it_due_again_and_nothing_else(
    engine: Any, sql: Any, nightly: UUID, written: datetime
) -> None:
    await pause.resume(engine, nightly)
    assert await _after_at(sql) == written
    await sql.execute("update definitions set after_at = null")
    await pause.resume(engine, nightly)
    assert await _after_at(sql) > written
    await sql.execute("update definitions set after_seconds = null")
    await pause.resume(engine, nightly)
    assert await _after_at(sql) is None


async def _found(engine: Any, at: datetime, until: datetime) -> int:
    return len(await status.relative(engine, at, until))


async def test_those_due_until_an_instant_and_those_that_wait_are_found(
    engine: Any, sql: Any, written: datetime
) -> None:
    def seconds(at: float) -> datetime:
        return written + timedelta(seconds=at)

    for at, until, expected in ((0, 59, 0), (0, 60, 1), (59, 90, 1), (60, 90, 0)):
        assert await _found(engine, seconds(at), seconds(until)) == expected, (at, until)
    await sql.execute("update definitions set after_at = $1", UNDER_WAY)
    assert await _found(engine, seconds(0), seconds(1)) == 1
    await sql.execute("update definitions set after_at = null")
    assert await _found(engine, seconds(0), UNDER_WAY) == 0


@pytest.mark.parametrize("column", ["paused_until", "starts_at"])
async def test_what_a_pause_puts_off_is_found_when_the_pause_ends(
    engine: Any, sql: Any, written: datetime, column: str
) -> None:
    ends = written + timedelta(hours=1)
    await sql.execute(f"update definitions set {column} = $1", ends)
    a_minute = timedelta(minutes=1)
    assert await _found(engine, written, written + 2 * a_minute) == 0
    assert await _found(engine, ends - a_minute, ends) == 1
    await sql.execute(f"update definitions set {column} = 'infinity'")
    assert await _found(engine, written, UNDER_WAY) == 0


async def test_however_many_are_due_all_of_them_and_those_that_wait_are_found(
    engine: Any, sql: Any, written: datetime
) -> None:
    await sql.execute(
        "insert into definitions (tenant, name, duty, after_seconds, deployment_id) "
        "select 'acme', 'n' || n, 'workflow_run', 60, gen_random_uuid() "
        "from generate_series(1, 20000) n"
    )
    await sql.execute(
        "update definitions set after_at = $1 where deployment_id = $2", UNDER_WAY, DEPLOYMENT
    )
    found = await status.relative(engine, written, written + timedelta(hours=1))
    assert len(found) == 20001
    await status.count_after(engine, found, UNDER_WAY)
    assert await sql.fetchval("select min(after_at) from definitions") == UNDER_WAY


@pytest.mark.parametrize(
    "change",
    [
        "after_seconds = 90",
        "after_seconds = null",
        "after_at = null",
        "enabled = false; update definitions set enabled = true",
    ],
)
async def test_what_somebody_has_written_meanwhile_stays(
    engine: Any, sql: Any, written: datetime, change: str
) -> None:
    found = await status.relative(engine, written, written + timedelta(seconds=60))
    await sql.execute(f"update definitions set {change}")
    now = await _after_at(sql)
    assert now != written
    await status.count_after(engine, found, UNDER_WAY)
    await status.count_after(engine, found, None)
    assert await _after_at(sql) == now
