"""What runs that have ended make of their definition: pauses, and what people are told."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from store import pause, status
from store.letters import Failure
from store.outcomes import Ended

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
DEPLOYMENT = UUID("8f14e45f-ceea-467f-9d5c-0a3d1b2c3d4e")
OPS = "slack-webhook/ops"


class House:
    """A definition `acme/nightly`, whose runs end one a minute."""

    def __init__(self, engine: Any, sql: Any, id_: UUID) -> None:
        self.engine, self.sql, self.id = engine, sql, id_
        self._minute = 0

    def _ended(self, how: str, error: str = "No answer.") -> Ended:
        self._minute += 1
        at = NOON + timedelta(minutes=self._minute)
        failure = Failure(at, "schedule", {}, error, 1) if how == "f" else None
        state = {"f": "Failed", "s": "Completed", "c": "Cancelled"}[how]
        return Ended(str(uuid4()), DEPLOYMENT, at, at, state, how == "s", failure)

    async def ends(self, how: str, error: str = "No answer.") -> None:
        """Counts runs by letters, each by itself: f failed, s succeeded, c was cancelled."""
        for one in how:
            await status.count(self.engine, [self._ended(one, error)])

    async def end_together(self, how: str) -> None:
        await status.count(self.engine, [self._ended(one) for one in how])

    async def sets(self, what: str, *values: Any) -> None:
        await self.sql.execute(f"update definitions set {what}", *values)

    async def row(self) -> Any:
        return await self.sql.fetchrow("select * from definitions")

    async def told(self) -> list[str]:
        """Takes the kinds of the notices that there are, the oldest first."""
        found = await self.sql.fetch(
            "with gone as (delete from notices returning *) select * from gone order by id"
        )
        assert {tuple(one["blocks"]) for one in found} <= {(OPS,)}
        return [one["kind"].removeprefix("definition_") for one in found]


@pytest.fixture
async def house(engine: Any, sql: Any, nightly: UUID) -> House:
    await sql.execute("update definitions set deployment_id = $1", DEPLOYMENT)
    return House(engine, sql, nightly)


# -- failures in a row


async def test_failures_in_a_row_are_counted_until_a_success(house: House) -> None:
    await house.ends("fsff")
    assert (await house.row())["failures"] == 2


async def test_a_cancelled_run_is_neither_a_failure_nor_a_success(house: House) -> None:
    await house.ends("ffcf")
    assert (await house.row())["failures"] == 3


async def test_a_run_that_is_tried_again_in_prefect_hours_later_is_counted_again(
    house: House, sql: Any
) -> None:
    first = house._ended("f")
    await status.count(house.engine, [first])
    assert await status.count(house.engine, [first]) == []
    later = NOON + timedelta(hours=3)
    again = Ended(first.run_id, DEPLOYMENT, later, later, "Completed", completed=True)
    assert await status.count(house.engine, [again]) == [again]
    assert (await house.row())["failures"] == 0
    assert await sql.fetchval("select status from dead_letters") == "replayed"


async def test_a_cancelled_replay_leaves_its_letter_open_and_counts_for_nothing(
    house: House, sql: Any
) -> None:
    await house.ends("f")
    replay = uuid4()
    await sql.execute(
        "update dead_letters set status = 'replayed', replay_run_id = $1, decided_at = now()",
        replay,
    )
    at = NOON + timedelta(hours=1)
    never = Ended(str(replay), DEPLOYMENT, None, at, "Cancelled", cancelled=True)
    await status.count(house.engine, [never])
    assert await sql.fetchval("select status from dead_letters") == "open"
    assert (await house.row())["run_count"] == 1


async def test_a_failed_job_makes_no_dead_letter_as_it_is_queued_again_instead(
    house: House, sql: Any
) -> None:
    await house.ends("f")
    await house.sets("duty = 'run_job'")
    await house.ends("f")
    assert await sql.fetchval("select count(*) from dead_letters") == 1
    assert (await house.row())["failures"] == 2


async def test_a_definition_pauses_after_so_many_and_says_why(house: House, sql: Any) -> None:
    await house.sets("pause_after_failures = 3")
    await house.ends("ff")
    assert (await house.row())["enabled"] is True
    await sql.execute("delete from changes")

    await house.ends("f", "The provider is down.\nReally.")

    row = await house.row()
    assert (row["enabled"], row["paused_until"]) == (False, None)
    assert row["pause_note"] == (
        "Paused by Rota after 3 runs in a row that failed; the last: The provider is down.\nReally."
    )
    who, before, after = await sql.fetchrow(
        "select who, before ->> 'enabled', after ->> 'enabled' from audit order by id desc limit 1"
    )
    assert (who, before, after) == ("rota", "true", "false")
    assert await sql.fetchval("select count(*) from changes") == 1  # so that Prefect hears of it


async def test_runs_that_are_counted_together_pause_it_too(house: House) -> None:
    await house.sets("pause_after_failures = 3")
    await house.end_together("sffff")
    row = await house.row()
    assert (row["enabled"], row["failures"], row["run_count"]) == (False, 4, 5)


async def test_without_such_a_number_nothing_pauses(house: House) -> None:
    await house.ends("ffffff")
    assert (await house.row())["enabled"] is True


async def test_a_pause_by_somebody_keeps_its_note(house: House) -> None:
    await house.sets("pause_after_failures = 1, enabled = false, pause_note = 'Mine.'")
    await house.ends("ff")
    assert (await house.row())["pause_note"] == "Mine."


@pytest.mark.parametrize("by", ["resume", "sql"])
async def test_who_lets_it_run_again_begins_the_counting_anew(house: House, by: str) -> None:
    await house.sets("pause_after_failures = 2")
    await house.ends("ff")
    if by == "sql":
        await house.sets("enabled = true")
    else:
        await pause.resume(house.engine, house.id, "ops")
    assert (await house.row())["failures"] == 0

    await house.ends("f")
    assert (await house.row())["enabled"] is True
    await house.ends("f")
    assert (await house.row())["enabled"] is False


async def test_another_change_does_not_begin_the_counting_anew(house: House) -> None:
    await house.ends("f")
    await house.sets("title = 'Another'")
    assert (await house.row())["failures"] == 1


async def test_a_lower_number_than_failures_so_far_pauses_at_the_next(house: House) -> None:
    await house.ends("fff")
    await house.sets("pause_after_failures = 2")
    await house.ends("f")
    assert (await house.row())["enabled"] is False


# -- notices


async def test_nobody_is_told_who_has_not_asked(house: House) -> None:
    await house.ends("fs")
    assert await house.told() == []


async def test_people_are_told_once_that_it_fails_and_once_that_it_works_again(
    house: House,
) -> None:
    await house.sets("notify = $1", [OPS])
    await house.ends("sfffsssf")
    assert await house.told() == ["failure", "recovery", "failure"]


async def test_so_many_failures_in_a_row_are_told_and_fewer_are_not(house: House) -> None:
    await house.sets("notify = $1, notify_after = 3", [OPS])
    await house.ends("ffsffs")
    assert await house.told() == []
    await house.ends("fff")
    assert await house.told() == ["failure"]
    await house.ends("s")
    assert await house.told() == ["recovery"]


async def test_success_is_told_at_the_first_after_anything_else(house: House) -> None:
    await house.sets("notify = $1, notify_on = '{success}'", [OPS])
    await house.ends("ss")
    assert await house.told() == ["success"]
    await house.ends("ffss")
    assert await house.told() == ["success"]


async def test_a_recovery_is_told_as_that_and_not_as_a_success_too(house: House) -> None:
    await house.sets("notify = $1, notify_on = '{failure,recovery,success}'", [OPS])
    await house.ends("sfs")
    assert await house.told() == ["success", "failure", "recovery"]


async def test_a_notice_names_the_definition_and_the_error(house: House, sql: Any) -> None:
    await house.sets("notify = $1, pause_after_failures = 1", [OPS])
    await house.ends("f", "The provider is down.\nReally.")
    one = await sql.fetchrow("select * from notices")
    assert one["subject"] == "acme/nightly fails: The provider is down."
    assert one["text"] == (
        "After a run that failed; the last, due at 2030-01-01 12:01:00 UTC: The provider is down."
        "\nReally.\nIt is paused."
    )
    assert (one["severity"], one["blocks"]) == ("critical", [OPS])


async def test_an_error_that_says_nothing_is_told_by_its_state(house: House, sql: Any) -> None:
    await house.sets("notify = $1", [OPS])
    await house.ends("f", "\n \0")
    assert "fails: " in await sql.fetchval("select subject from notices")


async def test_a_run_that_is_read_twice_is_told_once(house: House) -> None:
    await house.sets("notify = $1", [OPS])
    run = house._ended("f")
    await status.count(house.engine, [run])
    await status.count(house.engine, [run])
    assert await house.told() == ["failure"]
    assert (await house.row())["failures"] == 1
