"""Which runs are found that may start, behind how many that may not."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.states import Scheduled

from workers import due
from workers.due import Due

pytestmark = pytest.mark.acceptance

PAGE, PAGES = 20, 4
SOON = datetime(2026, 3, 1, 8, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due, "PAGE", PAGE)
    monkeypatch.setattr(due, "PAGES", PAGES)


async def late(yard: Any, queue: str, times: int, at: datetime = SOON, **limits: Any) -> list[Any]:
    """Makes runs in a queue, due at `at` and after; returns their ids."""
    made = await yard.client.create_work_queue(name=queue, work_pool_name=yard.pool)
    if limits:
        await yard.client.update_work_queue(made.id, **limits)
    deployment = await yard.deploy("trivial", work_queue_name=queue)
    turns = asyncio.Semaphore(8)

    async def make(number: int) -> Any:
        async with turns:
            state: Any = Scheduled(scheduled_time=at + timedelta(seconds=number))
            return await yard.client.create_flow_run_from_deployment(deployment, state=state)

    return [run.id for run in await asyncio.gather(*map(make, range(times)))]


async def find(yard: Any, *queues: str, room: int = 50) -> list[Any]:
    pool = await yard.client.read_work_pool(yard.pool)
    found = await Due(yard.client, yard.pool, queues).find(0, room, pool)
    return [run.id for run in found]


async def test_any_number_of_runs_of_a_paused_queue_leave_the_others_to_be_found(yard: Any) -> None:
    await late(yard, "paused", PAGE * PAGES + 5, is_paused=True)
    last = await late(yard, "open", 3, SOON + timedelta(days=1))

    assert await find(yard) == last
    assert await find(yard, "paused", "open") == last
    assert await find(yard, "paused") == []


async def test_runs_of_many_full_queues_leave_the_others_to_be_found(yard: Any) -> None:
    for number in range(PAGES + 2):
        await late(yard, f"full-{number}", PAGE, concurrency_limit=0)
    last = await late(yard, "open", 3, SOON + timedelta(days=1))

    assert await find(yard) == last


async def test_what_a_limit_has_room_for_is_found_once_before_what_lies_behind(yard: Any) -> None:
    narrow = await late(yard, "narrow", PAGE + 10, concurrency_limit=2)
    last = await late(yard, "open", PAGE + 3, SOON + timedelta(days=1))

    assert await find(yard) == [*narrow[:2], *last]


async def test_a_queue_that_has_a_little_room_does_not_hide_the_others(yard: Any) -> None:
    narrow = await late(yard, "narrow", PAGE * PAGES + 5, concurrency_limit=3)
    last = await late(yard, "open", 3, SOON + timedelta(days=1))

    assert await find(yard) == [*narrow[:3], *last]


async def test_runs_of_a_deployment_that_names_no_queue_are_found(yard: Any) -> None:
    await late(yard, "paused", PAGE * PAGES + 5, is_paused=True)
    deployment = await yard.deploy("trivial")
    state: Any = Scheduled(scheduled_time=SOON + timedelta(days=1))
    run = await yard.client.create_flow_run_from_deployment(deployment, state=state)

    assert await find(yard) == [run.id]
    assert await find(yard, "default") == [run.id]


async def test_a_full_pool_is_asked_for_one_page(yard: Any) -> None:
    await late(yard, "open", PAGE * 2)
    pool = (await yard.client.read_work_pool(yard.pool)).model_copy(update={"concurrency_limit": 0})
    looked = Due(yard.client, yard.pool, ())
    pages = []

    async def page(*said: Any, read: Any = looked._page) -> Any:
        pages.append(said)
        return await read(*said)

    looked._page = page  # type: ignore[method-assign]
    assert await looked.find(0, 50, pool) == []
    assert len(pages) == 1
