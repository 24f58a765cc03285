import asyncio
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_API_URL, temporary_settings

from deployments.gateway import Gateway
from deployments.reconcile import Reconciler
from deployments.watch import AWAY
from store import changes

# Far from now, so that no run falls due while the test goes on.
HOUR = (datetime.now(UTC).hour + 12) % 24


class Roster:
    """Five definitions with two states; from either to the other takes every kind of write."""

    def __init__(self, house) -> None:
        self.house = house
        self.turn = 0

    async def turn_over(self) -> None:
        """Writes what makes the other state of it."""
        house, self.turn = self.house, self.turn + 1
        odd = self.turn % 2 == 1
        if self.turn == 1:
            for name in ("edited", "moved", "now-and-then"):
                await house.define(name, cron=f"0 {HOUR} * * *")
        await house.change("edited", parameters={"workflow_id": f"w{self.turn}"})
        await house.change("moved", cron=f"{self.turn % 60} {HOUR} * * *")
        await house.change("now-and-then", cron=f"0 {HOUR} * * *" if odd else None)
        await house.define("odd" if odd else "even", cron=f"0 {HOUR} * * *")
        if self.turn > 1:
            await house.remove("even" if odd else "odd")

    async def is_carried_out(self) -> None:
        """Asserts that Prefect holds what was written last, all of it and once."""
        odd = self.turn % 2 == 1
        found = await self.house.deployments()
        assert found.keys() == {"edited", "moved", "now-and-then", "odd" if odd else "even"}
        assert found["edited"]["parameters"] == {"workflow_id": f"w{self.turn}"}
        for name in found:
            minute = self.turn % 60 if name == "moved" else 0
            due = datetime.now(UTC).replace(hour=HOUR, minute=minute, second=0, microsecond=0)
            due += timedelta(days=1) if due < datetime.now(UTC) else timedelta()
            expected = [due, due + timedelta(days=1)]
            if name == "now-and-then" and not odd:
                expected = []
            await self.house.comes_to_rest_at(name, expected)
            row = await self.house.row(name)
            assert str(row["deployment_id"]) == found[name]["id"]
            assert row["fingerprint"] == found[name]["version"]
            assert row["problem"] is None
        assert await changes.waiting(self.house.engine) == 0


async def _try(reconciler: Reconciler) -> None:
    """Deals with the notes as `watch` does, for which failures like these pass by themselves."""
    with suppress(*AWAY):
        work = await changes.begin(reconciler.engine)
        assert work is not None
        await reconciler.deal_with(work)


@pytest.mark.parametrize("fault", [500, 503, "nothing", "cut", "cut after"])
async def test_an_apply_that_fails_at_any_call_is_made_good_by_the_next(house, proxy, fault):
    roster = Roster(house)
    await roster.turn_over()
    await house.settle()
    await roster.is_carried_out()
    # How many calls an undisturbed turn takes.
    await roster.turn_over()
    proxy.calls.clear()
    await house.settle()
    await roster.is_carried_out()
    calls = len(proxy.calls)
    assert {call.method for call in proxy.calls} == {"POST", "PATCH", "DELETE"}

    seconds = 1 if fault == "nothing" else 20  # only who waits for nothing has to be impatient
    updates = {PREFECT_API_URL: proxy.address, PREFECT_API_REQUEST_TIMEOUT: seconds}
    with temporary_settings(updates=updates):
        async with Gateway.connect() as gateway:
            await gateway.work_pools()
            disturbed = Reconciler(house.engine, gateway, house.reconciler.settings)
            for number in range(1, calls + 1):
                await roster.turn_over()
                proxy.fail_at(number, fault)
                await _try(disturbed)
                assert len(proxy.calls) >= number
                assert await changes.waiting(house.engine) > 0 or fault == "cut after", number

                proxy.mend()
                await house.settle()
                await roster.is_carried_out()


async def test_while_prefect_is_away_nothing_is_forgotten(house, proxy):
    roster = Roster(house)
    await roster.turn_over()
    proxy.fault = lambda call: 503
    for _ in range(3):
        await _try(house.reconciler)
    assert await changes.waiting(house.engine) > 0
    assert await house.deployments() == {}

    proxy.mend()
    await house.settle()
    await roster.is_carried_out()


async def test_one_answer_that_prefect_is_away_spares_it_the_rest_of_the_apply(house, proxy):
    for number in range(10):
        await house.define(f"n{number}")
    proxy.fault = lambda call: 503 if str(call) == "POST /api/deployments/" else None

    await _try(house.reconciler)

    assert proxy.writes.count("POST /api/deployments/") == 1
    proxy.mend()
    await house.settle()
    assert len(await house.deployments()) == 10


async def test_a_page_of_somebody_elses_is_a_failure_that_passes(house, proxy):
    await house.define("nightly")
    proxy.fault = lambda call: "page"

    await _try(house.reconciler)

    assert await changes.waiting(house.engine) == 1
    proxy.mend()
    await house.settle()
    assert await house.runs("nightly") != []


STEP = """
import asyncio, sys
from sqlalchemy.engine import make_url
from deployments.gateway import Gateway
from deployments.reconcile import Reconciler
from store import changes, database
from store.settings import Settings

async def main():
    settings = Settings(work_pool="rota", concurrency=1)
    async with database.opened(make_url(sys.argv[1])) as engine, Gateway.connect() as gateway:
        work = await changes.begin(engine)
        await Reconciler(engine, gateway, settings).deal_with(work)

asyncio.run(main())
"""

WRITES = {
    "the creation": lambda call: str(call) == "POST /api/deployments/",
    "the update": lambda call: call.method == "PATCH",
    "the deletion": lambda call: call.method == "DELETE" and "schedules" not in call.path,
    "the end of a schedule": lambda call: "/schedules/" in call.path,
    "the making of runs": lambda call: call.path.endswith("/schedule"),
}


@pytest.mark.acceptance
@pytest.mark.parametrize("write", WRITES)
async def test_a_process_that_is_killed_after_a_write_leaves_nothing_undone(
    house, proxy, database_url, write
):
    roster = Roster(house)
    await roster.turn_over()
    await house.settle()
    await roster.turn_over()
    proxy.calls.clear()
    proxy.fault = lambda call: "kill" if WRITES[write](call) else None
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        STEP,
        database_url,
        env={**os.environ, "PREFECT_API_URL": proxy.address},
    )
    proxy.victim = process.pid

    assert await process.wait() == -9

    killed_at = datetime.now(UTC)
    killed_by = proxy.calls[-1]
    proxy.mend()
    await house.settle()
    await roster.is_carried_out()
    if write in ("the creation", "the update"):
        # Its runs are made from before it died on, whoever may have made some meanwhile.
        found = await house.deployments()
        [name] = [
            name
            for name, one in found.items()
            if killed_by.path.endswith(one["id"])
            or (killed_by.body or {}).get("name") == one["name"]
        ]
        made = [
            datetime.fromisoformat(call.body["start_time"])
            for call in proxy.calls
            if call.path == f"/api/deployments/{found[name]['id']}/schedule"
        ]
        assert made != [] or found[name]["schedules"] == []
        assert all(since < killed_at for since in made)
