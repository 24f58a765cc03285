import asyncio

import pytest
import sqlalchemy as sa

from store import changes


async def test_without_notes_there_is_no_work(engine):
    assert await changes.begin(engine) is None
    assert await changes.waiting(engine) == 0


async def test_notes_become_work(engine, sql, rows, nightly):
    await sql.execute("update definitions set enabled = false")

    work = await changes.begin(engine)

    assert work is not None
    assert list(work.notes.values()) == [nightly]
    assert work.since.keys() == {nightly}
    assert work.names == {("acme", "nightly")}
    assert (work.resumed, work.tenants, work.everything) == (frozenset(), frozenset(), False)


async def test_work_begins_when_it_is_taken_not_when_it_was_noted(engine, sql, nightly):
    await sql.execute("update definitions set enabled = false")
    between = await sql.fetchval("select clock_timestamp()")

    work = await changes.begin(engine)

    assert work is not None
    assert between < work.since[nightly] < await sql.fetchval("select clock_timestamp()")


async def test_several_notes_of_one_definition_are_one_piece_of_work(engine, sql, nightly):
    for retries in (1, 2, 3):
        await sql.execute("update definitions set retries = $1", retries)

    work = await changes.begin(engine)

    assert work is not None
    assert len(work.notes) == 3
    assert work.since.keys() == {nightly}


async def test_a_note_stays_until_it_is_dealt_with(engine, sql, nightly):
    await sql.execute("update definitions set enabled = false")

    first = await changes.begin(engine)
    assert first is not None
    assert await changes.waiting(engine) == 1

    await changes.finish(engine, first.notes)
    assert await changes.begin(engine) is None


async def test_what_is_written_meanwhile_is_not_finished_with_the_rest(engine, sql, nightly):
    await sql.execute("update definitions set retries = 1")
    first = await changes.begin(engine)
    assert first is not None
    await sql.execute("update definitions set retries = 2")

    await changes.finish(engine, first.notes)

    second = await changes.begin(engine)
    assert second is not None
    assert second.since.keys() == {nightly}
    assert not second.notes.keys() & first.notes.keys()
    assert second.resumed == frozenset()


async def test_work_that_was_left_is_resumed_from_when_it_began_first(engine, sql, nightly):
    await sql.execute("update definitions set retries = 1")
    left = await changes.begin(engine)
    await sql.execute("update definitions set retries = 2")
    again = await changes.begin(engine)
    once_more = await changes.begin(engine)

    assert left is not None
    assert again is not None
    assert once_more is not None
    assert left.resumed == frozenset()
    assert again.resumed == once_more.resumed == {nightly}
    assert again.since == once_more.since == left.since


async def test_only_what_was_left_is_resumed(engine, sql, rows, nightly):
    await sql.execute("update definitions set retries = 1")
    await changes.begin(engine)
    weekly = await rows.definition("weekly")

    work = await changes.begin(engine)

    assert work is not None
    assert work.since.keys() == {nightly, weekly}
    assert work.resumed == {nightly}


async def test_the_oldest_notes_are_taken_first(engine, rows, nightly):
    names = [f"n{number}" for number in range(5)]
    for name in names:
        await rows.definition(name)

    work = await changes.begin(engine, limit=2)

    assert work is not None
    assert work.names == {("acme", "n0"), ("acme", "n1")}
    assert list(work.notes) == sorted(work.notes)
    assert await changes.waiting(engine) == 5


async def test_a_tenants_note_is_about_no_single_definition(engine, sql, nightly):
    await sql.execute("update tenants set suspended = true")

    work = await changes.begin(engine)

    assert work is not None
    assert (work.tenants, work.names, work.since) == ({"acme"}, frozenset(), {})
    assert work.everything is False


async def test_a_truncated_table_is_about_everything(engine, sql, nightly):
    await sql.execute("truncate definitions")

    work = await changes.begin(engine)

    assert work is not None
    assert work.everything is True


async def test_of_two_that_begin_at_once_one_resumes_what_the_other_began(engine, sql, nightly):
    await sql.execute("update definitions set retries = 1")

    one, other = await asyncio.gather(changes.begin(engine), changes.begin(engine))

    assert one is not None
    assert other is not None
    assert one.since == other.since
    assert sorted([one.resumed, other.resumed], key=len) == [frozenset(), {nightly}]


async def test_a_reason_of_rotas_own_is_noted_as_begun(engine, sql, nightly):
    work = await changes.note(engine, "drift", [("acme", "nightly", nightly)])

    assert work.notes == {await sql.fetchval("select id from changes"): nightly}
    assert work.resumed == frozenset()
    assert work.since[nightly] == await sql.fetchval("select started_at from changes")
    left = await changes.begin(engine)
    assert left is not None
    assert left.resumed == {nightly}
    assert left.since == work.since


async def test_no_reason_makes_no_note(engine):
    work = await changes.note(engine, "drift", [])

    assert (work.notes, work.since) == ({}, {})
    assert await changes.waiting(engine) == 0


async def test_ten_thousand_notes_are_begun_and_finished(engine, sql, rows, nightly):
    await sql.execute(
        "insert into definitions (tenant, name, duty) "
        "select 'acme', 'n' || n, 'workflow_run' from generate_series(1, 10000) n"
    )

    work = await changes.begin(engine, limit=10_000)
    assert work is not None
    assert len(work.since) == 10_000

    await changes.finish(engine, work.notes)
    assert await changes.waiting(engine) == 0


async def test_only_one_writes_to_prefect_at_a_time(engine):
    order: list[str] = []
    inside = asyncio.Event()
    may_leave = asyncio.Event()

    async def first() -> None:
        async with changes.exclusively(engine):
            inside.set()
            await may_leave.wait()
            order.append("first leaves")

    async def second() -> None:
        await inside.wait()
        async with changes.exclusively(engine):
            order.append("second enters")

    async with asyncio.TaskGroup() as group:
        group.create_task(first())
        group.create_task(second())
        await inside.wait()
        await _until_somebody_waits(engine)
        may_leave.set()

    assert order == ["first leaves", "second enters"]


async def _until_somebody_waits(engine) -> None:
    waiting = sa.text("select count(*) from pg_locks where locktype = 'advisory' and not granted")
    async with asyncio.timeout(10), engine.connect() as connection:
        while not await connection.scalar(waiting):
            await connection.rollback()


async def test_who_waits_too_long_to_write_is_told(engine):
    async with changes.exclusively(engine):
        with pytest.raises(sa.exc.DBAPIError, match="lock timeout"):
            async with changes.exclusively(engine, patience_seconds=1):
                pytest.fail("two wrote at once")

    async with changes.exclusively(engine, patience_seconds=1):
        pass


async def test_a_failure_inside_gives_the_right_to_write_back(engine):
    with pytest.raises(RuntimeError, match="midway"):
        async with changes.exclusively(engine):
            raise RuntimeError("midway")

    async with changes.exclusively(engine, patience_seconds=1):
        pass


async def test_the_patience_of_one_does_not_stick_to_its_connection(engine):
    async with changes.exclusively(engine, patience_seconds=7):
        pass

    async with engine.connect() as connection:
        assert await connection.scalar(sa.text("show lock_timeout")) == "0"


async def test_a_killed_connection_gives_the_right_to_write_back(engine, sql):
    with pytest.raises(sa.exc.DBAPIError):
        async with changes.exclusively(engine):
            await sql.execute(
                "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"
            )

    async with changes.exclusively(engine, patience_seconds=1):
        pass


async def test_the_next_look_is_known_before_it_is_due(engine, sql, nightly):
    await sql.execute("delete from changes")
    assert await changes.next_due(engine) is None

    await sql.execute(
        "insert into changes (operation, due_at) values ('settle', now() + interval '1 minute')"
    )

    assert 55 < await changes.next_due(engine) <= 60
    assert await changes.begin(engine) is None
    assert await changes.waiting(engine) == 0
