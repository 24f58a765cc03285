"""When the circuit lets a run through, by a clock of the test's own and on the real API."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
from prefect import flow

from blocks.outgoing import BACKOFF, Backoff
from blocks.records import Records
from blocks.workflow_service import WorkflowRefused, WorkflowServiceUnavailable
from flows.circuit import Circuit, PutOff
from tests.circuit.conftest import KEY, kept

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Clock:
    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now

    def forward(self, **time):
        self.now += timedelta(**time)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def circuit(rota, clock, log) -> AsyncIterator[Circuit]:
    async with (await rota.records()).of(rota.tenant) as mine:
        yield Circuit(mine, "default", 30, clock, lambda: 0.0)


class Calls:
    """What is called, which does as it is told; `backoffs` are what it was given."""

    def __init__(self):
        self.backoffs: list[Backoff] = []
        self.error: Exception | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    async def __call__(self, backoff):
        self.backoffs.append(backoff)
        self.meanwhile()
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return "done"


@pytest.fixture
def calls() -> Calls:
    return Calls()


OPEN = {"since": NOON.isoformat(), "until": NOON.isoformat(), "times": 1}
AWAY = WorkflowServiceUnavailable("connection refused")


async def _put_off(circuit, calls) -> PutOff:
    with pytest.raises(PutOff) as caught:
        await circuit.through(calls, 300)
    return caught.value


async def test_while_all_is_well_nothing_is_kept(circuit, calls, rota):
    assert await circuit.through(calls, 300) == "done"
    assert calls.backoffs == [BACKOFF]
    assert await kept(rota) is None


async def test_a_service_that_is_away_is_not_called_for_half_a_minute(circuit, calls, clock):
    calls.error = AWAY
    first = await _put_off(circuit, calls)
    assert NOON + timedelta(seconds=30) < first.due < NOON + timedelta(seconds=31)
    assert "away since 2026-11-21 12:00:00 UTC (1 try). connection refused" in str(first)
    clock.forward(seconds=29)
    second = await _put_off(circuit, calls)
    assert second.due == first.due
    assert len(calls.backoffs) == 1


async def test_runs_that_find_it_away_at_once_open_the_circuit_once(circuit, calls, rota):
    calls.error = AWAY
    await asyncio.gather(*(_put_off(circuit, calls) for _ in range(5)))
    assert (await kept(rota))["times"] == 1


async def test_it_is_open_for_twice_as_long_after_each_try_and_never_for_more_than_ten_minutes(
    circuit, calls, clock, rota
):
    calls.error = AWAY
    waits = []
    for _ in range(7):
        await _put_off(circuit, calls)
        until = datetime.fromisoformat((await kept(rota))["until"])
        waits.append((until - clock.now).total_seconds())
        clock.now = until
    assert waits == [30, 60, 120, 240, 480, 600, 600]
    assert datetime.fromisoformat((await kept(rota))["since"]) == NOON


async def test_when_the_time_has_come_one_run_calls_once_and_the_others_stay_put_off(
    circuit, calls, clock
):
    calls.error = AWAY
    await _put_off(circuit, calls)
    clock.forward(seconds=30)
    calls.error = None
    done = await asyncio.gather(
        *(circuit.through(calls, 300) for _ in range(5)), return_exceptions=True
    )
    # Who comes after the first is through calls like any other.
    assert "done" in done
    assert all(one == "done" or isinstance(one, PutOff) for one in done)
    trying = [one for one in calls.backoffs[1:] if one is not BACKOFF]
    assert [one.wait(1, 300) for one in trying] == [None]
    assert all(one.due > clock.now for one in done if isinstance(one, PutOff))


async def test_a_try_that_fails_keeps_the_others_off_for_longer(circuit, calls, clock, rota):
    calls.error = AWAY
    await _put_off(circuit, calls)
    clock.forward(seconds=30)
    await _put_off(circuit, calls)
    assert len(calls.backoffs) == 2
    assert (await kept(rota))["times"] == 2
    clock.forward(seconds=59)
    await _put_off(circuit, calls)
    assert len(calls.backoffs) == 2


@pytest.mark.parametrize("error", [None, WorkflowRefused("no such workflow", 404)])
async def test_any_answer_closes_it(circuit, calls, clock, rota, error):
    calls.error = AWAY
    await _put_off(circuit, calls)
    clock.forward(seconds=30)
    calls.error = error
    if error:
        with pytest.raises(WorkflowRefused):
            await circuit.through(calls, 300)
    else:
        await circuit.through(calls, 300)
    assert await kept(rota) is None


async def test_while_one_run_tries_the_others_come_back_soon(circuit, calls, clock, rota):
    calls.error = AWAY
    await _put_off(circuit, calls)
    clock.forward(seconds=30)
    trying, end = asyncio.Event(), asyncio.Event()

    async def slow(backoff):
        trying.set()
        await end.wait()
        return "slow"

    one = asyncio.create_task(circuit.through(slow, 300))
    await trying.wait()
    other = await _put_off(circuit, calls)
    assert timedelta(seconds=30) < other.due - clock.now < timedelta(seconds=31)
    end.set()
    assert await one == "slow"
    assert await kept(rota) is None


async def test_a_try_whose_run_has_died_is_taken_by_another(circuit, calls, clock):
    calls.error = AWAY
    await _put_off(circuit, calls)
    clock.forward(seconds=30)
    calls.error = RuntimeError("power loss")
    with pytest.raises(RuntimeError):
        await circuit.through(calls, 300)
    calls.error = None
    clock.forward(seconds=309)
    await _put_off(circuit, calls)
    clock.forward(seconds=1)
    assert await circuit.through(calls, 300) == "done"


async def test_a_run_that_finds_it_away_long_after_others_have_counts_as_a_try(
    circuit, calls, clock, rota
):
    calls.error = AWAY
    await _put_off(circuit, calls)
    await circuit.records.delete("checkpoints", KEY)

    async def late(backoff):
        await circuit.records.put("checkpoints", KEY, body={"value": before})
        clock.forward(seconds=300)
        raise AWAY

    before = {"since": NOON.isoformat(), "until": NOON.isoformat(), "times": 1}
    await _put_off(circuit, late)
    assert (await kept(rota))["times"] == 2


async def test_runs_are_drawn_apart_by_a_fifth_of_their_wait(circuit, calls):
    spread = Circuit(circuit.records, "default", 30, circuit.clock, lambda: 1.0)
    calls.error = AWAY
    assert (await _put_off(spread, calls)).due == NOON + timedelta(seconds=36)


@pytest.mark.parametrize(
    "value",
    [
        {"until": "tomorrow"},
        {**OPEN, "since": "0001-01-01T00:00:00+14:00"},
        {**OPEN, "until": "9999-12-31T23:59:59-14:00"},
        {**OPEN, "times": 2**62},
        [],
        None,
    ],
)
async def test_a_checkpoint_of_another_form_is_passed_over(circuit, calls, rota, value):
    await circuit.records.put("checkpoints", KEY, body={"value": value})

    # Only a run has a log to say so in.
    @flow
    async def run() -> str:
        return await circuit.through(calls, 300)

    assert await run() == "done"
    calls.error = AWAY
    await _put_off(circuit, calls)
    assert (await kept(rota))["times"] == 1


@pytest.mark.parametrize("until", ["2026-11-21T12:10:11Z", "2026-11-21T13:00:00Z", "8999-01-01Z"])
@pytest.mark.parametrize("trying", [False, True])
async def test_what_a_clock_that_is_ahead_has_written_keeps_nobody_off(
    circuit, calls, rota, until, trying
):
    value = {**OPEN, "until": until.replace("01-01Z", "01-01T00:00:00Z"), "trying": trying}
    await circuit.records.put("checkpoints", KEY, body={"value": value})
    calls.error = AWAY
    assert (await _put_off(circuit, calls)).due - NOON < timedelta(minutes=2)
    await circuit.records.put("checkpoints", KEY, body={"value": value})
    calls.error = None
    assert await circuit.through(calls, 300) == "done"
    assert await kept(rota) is None


async def test_a_try_with_a_deadline_without_end_is_another_s_in_ten_minutes(circuit, calls, clock):
    calls.error = AWAY
    await _put_off(circuit, calls)
    clock.forward(seconds=30)
    calls.error = RuntimeError("power loss")
    with pytest.raises(RuntimeError):
        await circuit.through(calls, 1e15)
    calls.error = None
    clock.forward(minutes=10, seconds=9)
    await _put_off(circuit, calls)
    clock.forward(seconds=1)
    assert await circuit.through(calls, 300) == "done"


async def test_a_long_error_is_said_in_part(circuit, calls, rota):
    calls.error = WorkflowServiceUnavailable("x" * 100_000)
    assert len(str(await _put_off(circuit, calls))) < 1200
    assert len((await kept(rota))["error"]) == 1000


async def test_without_an_answer_of_rota_s_the_service_is_called_as_ever(calls, log):
    @flow
    async def run() -> str:
        records = Records(base_url="http://127.0.0.1:9", token="t0ken", deadline_seconds=0.2)
        async with records.of("acme") as mine:
            return await Circuit(mine, "default", 30).through(calls, 300)

    assert await run() == "done"
    assert calls.backoffs == [BACKOFF]
    assert "Rota does not say whether default is away" in log.text
    calls.error = AWAY
    with pytest.raises(WorkflowServiceUnavailable):
        await run()
