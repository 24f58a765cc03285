"""Suspending and resuming as of an instant, in every order."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from store import suspensions, tenants
from store.suspensions import Outcome

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def later(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


@pytest.fixture
async def acme(engine: AsyncEngine) -> str:
    await tenants.create(engine, "acme", None)
    return "acme"


async def follow(engine: AsyncEngine, slug: str, blocked: bool, at: datetime) -> Outcome:
    if blocked:
        return await suspensions.block(engine, slug, at, f"since {at:%H:%M}", "events")
    return await suspensions.unblock(engine, slug, at, "events")


async def state(sql: Any, slug: str = "acme") -> tuple[Any, ...]:
    columns = "suspended, suspended_at, suspended_reason"
    return tuple(await sql.fetchrow(f"select {columns} from tenants where slug = $1", slug))


@pytest.mark.parametrize("last", [True, False])
async def test_in_every_order_the_latest_counts(engine: AsyncEngine, sql: Any, last: bool):
    events = [(not last, NOON), (last, later(1)), (not last, later(2)), (last, later(3))]
    for number, order in enumerate(permutations([*events, events[1]])):
        slug = f"t{number}"
        await tenants.create(engine, slug, None)
        for blocked, at in order:
            await follow(engine, slug, blocked, at)
        expected = (True, later(3), "since 12:03") if last else (False, None, None)
        assert await state(sql, slug) == expected, order


async def test_in_every_order_the_latest_counts_also_at_once(
    engine: AsyncEngine, sql: Any, acme: str
):
    events = [(number % 2 == 0, later(number)) for number in range(21)]
    await asyncio.gather(*(follow(engine, acme, *event) for event in reversed(events)))
    assert await state(sql) == (True, later(20), "since 12:20")


async def test_what_was_heard_twice_is_written_once(engine: AsyncEngine, sql: Any, acme: str):
    for blocked in (True, False):
        assert await follow(engine, acme, blocked, later(not blocked)) is Outcome.DONE
        assert await follow(engine, acme, blocked, later(not blocked)) is Outcome.OUTDATED
    who = "select array_agg(who) from audit where kind = 'tenant' and operation = 'update'"
    assert await sql.fetchval(who) == ["events", "events"]


async def test_of_the_same_instant_the_one_that_comes_last_counts(
    engine: AsyncEngine, sql: Any, acme: str
):
    await follow(engine, acme, True, NOON)
    await follow(engine, acme, False, NOON)
    assert (await state(sql))[0] is False
    await follow(engine, acme, True, NOON)
    assert (await state(sql))[0] is True


async def test_a_resumed_tenant_is_not_suspended_again_by_what_came_twice(
    engine: AsyncEngine, sql: Any, acme: str
):
    await follow(engine, acme, True, NOON)
    await tenants.unsuspend(engine, acme)
    assert await follow(engine, acme, True, NOON) is Outcome.OUTDATED
    assert (await state(sql))[0] is False


async def test_an_operators_suspension_ends_by_what_is_later_only(
    engine: AsyncEngine, sql: Any, acme: str
):
    await sql.execute(
        "update tenants set suspended = true, suspended_reason = 'abuse', suspended_at = $1", NOON
    )
    assert await follow(engine, acme, False, later(-1)) is Outcome.OUTDATED
    assert await follow(engine, acme, True, later(-0.5)) is Outcome.OUTDATED
    assert await state(sql) == (True, NOON, "abuse")
    assert await follow(engine, acme, False, later(1)) is Outcome.DONE
    assert await state(sql) == (False, None, None)


async def test_a_suspension_without_an_instant_is_earlier_than_all(
    engine: AsyncEngine, sql: Any, acme: str
):
    await sql.execute("update tenants set suspended = true, suspended_reason = 'invoice open'")
    assert await follow(engine, acme, False, NOON) is Outcome.DONE
    assert await state(sql) == (False, None, None)


async def test_an_unknown_tenant_is_said_to_be_one_and_not_remembered(
    engine: AsyncEngine, sql: Any
):
    assert await follow(engine, "acme", True, NOON) is Outcome.UNKNOWN
    assert await follow(engine, "acme", False, NOON) is Outcome.UNKNOWN
    assert await sql.fetchval("select count(*) from marks where name like 'blocked:%'") == 0


async def test_prefect_hears_of_it_once(engine: AsyncEngine, sql: Any, acme: str):
    await sql.execute("delete from changes")
    await follow(engine, acme, True, NOON)
    await follow(engine, acme, True, later(1))
    assert await sql.fetchval("select count(*) from changes") == 1
