import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from store import status
from store.outcomes import Ended

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
DEPLOYMENT = UUID("8f14e45f-ceea-467f-9d5c-0a3d1b2c3d4e")


@pytest.fixture
async def deployed(sql, nightly) -> UUID:
    """Makes the definition `acme/nightly` one that has a deployment; returns its id."""
    await sql.execute("update definitions set deployment_id = $1", DEPLOYMENT)
    return nightly


def ended(
    minutes: float, state: str = "Completed", deployment: UUID = DEPLOYMENT, run_id: str = ""
) -> Ended:
    """Makes a run of ten seconds that ended so many minutes past noon."""
    at = NOON + timedelta(minutes=minutes)
    return Ended(run_id or str(uuid4()), deployment, at - timedelta(seconds=10), at, state)


async def _row(sql):
    return await sql.fetchrow("select run_count, last_status, last_run_at from definitions")


async def test_ended_runs_are_counted(engine, sql, deployed):
    assert len(await status.count(engine, [ended(0), ended(1, "Failed")])) == 2

    at = NOON + timedelta(minutes=1, seconds=-10)
    assert tuple(await _row(sql)) == (2, "Failed", at)


async def test_a_run_that_is_read_twice_is_counted_once(engine, sql, deployed):
    run = ended(0)

    assert await status.count(engine, [run]) == [run]
    assert await status.count(engine, [run, other := ended(1)]) == [other]
    assert await status.count(engine, [run, other]) == []

    assert (await _row(sql))["run_count"] == 2


async def test_the_last_run_is_the_latest_that_has_ended_in_whatever_order_they_come(
    engine, sql, deployed
):
    fresh = await status.count(engine, [ended(2, "Crashed"), ended(0), ended(1, "Failed")])

    assert [run.state for run in fresh] == ["Completed", "Failed", "Crashed"]
    assert (await _row(sql))["last_status"] == "Crashed"


async def test_an_earlier_run_that_is_tried_again_is_not_the_last_for_that(engine, sql, deployed):
    first, last = ended(0, "Failed"), ended(5, "Failed")
    await status.count(engine, [first, last])
    again = replace(first, ended_at=NOON + timedelta(minutes=9), state="Completed")
    await status.count(engine, [again])
    assert tuple(await _row(sql)) == (3, "Failed", last.started_at)

    await status.count(engine, [replace(last, ended_at=again.ended_at, state="Completed")])
    assert tuple(await _row(sql)) == (4, "Completed", last.started_at)


async def test_any_number_of_runs_that_ended_while_nobody_watched_is_counted(engine, sql, deployed):
    at = NOON - timedelta(hours=1)
    states = {"Completed": {"completed": True}, "Cancelled": {"cancelled": True}}
    runs = [
        Ended(str(uuid4()), uuid4() if other else DEPLOYMENT, at, at, state, **how)
        for state, how in states.items()
        for other in (False, True)
        for _ in range(17_000)
    ]
    assert len(await status.count(engine, runs)) == 68_000
    assert (await _row(sql))["run_count"] == 34_000


async def test_runs_are_read_again_from_before_the_last_one(engine, deployed):
    before = await status.read_until(engine)
    await status.count(engine, [ended(0)])

    assert before < NOON - status.OVERLAP
    assert await status.read_until(engine) == NOON - status.OVERLAP


async def test_a_run_that_shows_late_is_counted_and_does_not_move_the_watermark_back(
    engine, sql, deployed
):
    await status.count(engine, [ended(10)])
    watermark = await status.read_until(engine)

    assert len(await status.count(engine, [ended(9)])) == 1

    assert await status.read_until(engine) == watermark
    assert (await _row(sql))["run_count"] == 2


async def test_a_run_at_the_edge_of_what_is_read_again_is_counted_once(engine, sql, deployed):
    edge = ended(10 - status.OVERLAP.total_seconds() / 60)
    await status.count(engine, [edge, ended(10)])

    # This one is read again: `read_until` includes the instant itself.
    assert edge.ended_at >= await status.read_until(engine)
    assert await status.count(engine, [edge]) == []


async def test_what_is_not_read_again_is_not_remembered(engine, sql, deployed):
    await status.count(engine, [ended(0, run_id="old")])
    await status.count(engine, [ended(60, run_id="new")])

    remembered = await sql.fetchval("select value::text from marks where name = 'runs'")
    assert "new" in remembered
    assert "old" not in remembered


async def test_runs_of_an_unknown_deployment_change_no_row(engine, sql, deployed):
    assert len(await status.count(engine, [ended(0, deployment=uuid4())])) == 1

    assert (await _row(sql))["run_count"] == 0


async def test_two_that_count_the_same_run_count_it_once(engine, sql, deployed):
    run = ended(0)

    counted = await asyncio.gather(*(status.count(engine, [run]) for _ in range(4)))

    assert sum(len(fresh) for fresh in counted) == 1
    assert (await _row(sql))["run_count"] == 1


async def test_status_columns_are_written_in_one_batch(engine, sql, rows, nightly):
    weekly = await rows.definition("weekly")
    await rows.notes()

    await status.record(
        engine,
        [{"id": nightly, "problem": "cron: no"}, {"id": weekly, "problem": "duty: no"}],
    )

    found = await sql.fetch("select name, problem from definitions order by name")
    assert [tuple(row) for row in found] == [("nightly", "cron: no"), ("weekly", "duty: no")]
    assert await rows.notes() == []


async def test_a_row_that_is_gone_is_no_error_when_it_is_recorded(engine, sql, nightly):
    await status.record(
        engine, [{"id": uuid4(), "problem": "gone"}, {"id": nightly, "problem": "here"}]
    )

    assert await sql.fetchval("select problem from definitions") == "here"


async def test_nothing_to_record_is_no_error(engine):
    await status.record(engine, [])


async def test_definitions_are_due_from_their_next_run_on(engine, sql, rows, nightly):
    await rows.definition("never")
    await sql.execute("update definitions set next_run_at = $1 where name = 'nightly'", NOON)

    assert await status.due(engine, NOON - timedelta(seconds=1)) == []
    assert [one.name for one in await status.due(engine, NOON)] == ["nightly"]


async def test_a_fact_is_remembered_with_its_age(engine):
    assert await status.marked(engine, "watch") is None

    await status.mark(engine, "watch", {"pid": 1})
    await status.mark(engine, "watch", {"pid": 2})

    found = await status.marked(engine, "watch")
    assert found is not None
    age, value = found
    assert value == {"pid": 2}
    assert timedelta() <= age < timedelta(seconds=10)
