"""Dead letters: what failed for good is kept, replayed for the same occurrence, or discarded."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import flow, get_client
from prefect.flow_engine import run_flow_async

from deployments.counting import count_runs
from deployments.gateway import Gateway
from flows.occurrence import Occurrence, current_occurrence

BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
RUNNING = {"type": "RUNNING", "name": "Running"}
FAILED = {"type": "FAILED", "name": "Failed", "message": "The service does not answer."}
CRASHED = {"type": "CRASHED", "name": "Crashed", "message": "The process ended."}
COMPLETED = {"type": "COMPLETED", "name": "Completed"}


@pytest.fixture
async def prefect(prefect_server: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of Prefect's own API."""
    async with httpx.AsyncClient(base_url=prefect_server, timeout=60) as client:
        yield client


class House:
    """A definition `nightly`, its runs, and the counting of those that have ended."""

    def __init__(self, api: Any, prefect: httpx.AsyncClient, gateway: Gateway, acme: str) -> None:
        self.api, self.prefect, self.gateway = api, prefect, gateway
        self.path = f"/tenants/{acme}/definitions/nightly"
        self.letters = f"/tenants/{acme}/dead-letters"

    async def run(self, minutes: float = 0, **body: Any) -> str:
        """Asks for a run that was due so many minutes after `BEGAN`; returns its id."""
        at = (BEGAN + timedelta(minutes=minutes)).isoformat()
        answer = await self.api.post(f"{self.path}/run", json={"at": at, **body})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def becomes(self, run_id: Any, *states: dict[str, Any]) -> None:
        """Takes a run through states, as a worker does, and counts what has ended."""
        for state in states:
            body = {"state": state, "force": True}
            path = f"/flow_runs/{run_id}/set_state"
            async with asyncio.timeout(60):
                while (answer := await self.prefect.post(path, json=body)).status_code == 503:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert answer.is_success, answer.text
        await count_runs(self.api.engine, self.gateway)

    async def fails(self, minutes: float = 0, **body: Any) -> dict[str, Any]:
        """Lets a run fail; returns its letter."""
        run_id = await self.run(minutes, **body)
        await self.becomes(run_id, RUNNING, FAILED)
        [letter] = [one for one in await self.all() if one["run_id"] == run_id]
        return letter

    async def all(self, **query: Any) -> list[dict[str, Any]]:
        answer = await self.api.get(self.letters, "viewer", params=query)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["items"]
        return found

    async def replay(self, letter: dict[str, Any]) -> dict[str, Any]:
        answer = await self.api.post(f"{self.letters}/{letter['id']}/replay", "editor")
        assert answer.status_code == 202, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
async def house(
    api: Any,
    prefect: httpx.AsyncClient,
    gateway: Gateway,
    acme: str,
    definitions: str,
    a_definition: Any,
    watch: Any,
    sql: Any,
) -> House:
    """Makes the definition and its deployment."""
    await api.post(definitions, json=a_definition(cron="0 0 1 1 *"))
    await watch.settle()
    # Prefect is all tests'; what ended before is nobody's here.
    return House(api, prefect, gateway, acme)


# -- written


async def test_a_run_that_fails_is_kept_with_all_that_it_takes_to_replay_it(house: House) -> None:
    letter = await house.fails(parameters={"workflow_id": "x"})

    assert datetime.fromisoformat(letter["occurrence"]) == BEGAN
    assert (letter["definition"], letter["trigger"]) == ("nightly", "manual")
    assert letter["parameters"] == {"workflow_id": "x"}
    assert letter["error"] == "The service does not answer."
    assert (letter["attempts"], letter["status"], letter["replays"]) == (1, "open", 0)
    assert (await house.api.get(f"{house.letters}/{letter['id']}")).json() == letter


async def test_a_run_that_crashes_before_it_begins_is_kept(house: House) -> None:
    await house.becomes(await house.run(), CRASHED)

    [letter] = await house.all()
    assert letter["error"] == "The process ended."


@pytest.mark.parametrize("end", [COMPLETED, {"type": "CANCELLED", "name": "Cancelled"}])
async def test_a_run_that_completes_or_is_cancelled_is_not_kept(
    house: House, end: dict[str, Any]
) -> None:
    await house.becomes(await house.run(), RUNNING, end)

    assert await house.all() == []


async def test_a_run_that_is_read_twice_is_kept_once(house: House) -> None:
    await house.fails()
    await count_runs(house.api.engine, house.gateway)

    [letter] = await house.all()
    assert letter["attempts"] == 1


async def test_what_postgresql_cannot_store_hinders_no_other_run(house: House) -> None:
    odd = {"type": "FAILED", "name": "Failed", "message": "a\0b" + "x" * 9000}
    await house.becomes(await house.run(parameters={"input": {"k": "v"}}), RUNNING, odd)
    await house.fails(1)

    latest, first = await house.all()
    assert first["error"].startswith("a\N{REPLACEMENT CHARACTER}b")
    assert len(first["error"]) == 4096
    assert latest["status"] == "open"


async def test_a_letter_and_the_count_of_its_run_are_written_together_or_not_at_all(
    house: House, sql: Any
) -> None:
    run_id = await house.run()
    await sql.execute("alter table dead_letters rename to elsewhere")
    with pytest.raises(Exception, match="dead_letters"):
        await house.becomes(run_id, RUNNING, FAILED)
    assert await sql.fetchval("select run_count from definitions") == 0

    await sql.execute("alter table elsewhere rename to dead_letters")
    await count_runs(house.api.engine, house.gateway)

    assert await sql.fetchval("select run_count from definitions") == 1
    assert len(await house.all()) == 1


async def test_a_run_that_prefect_tries_again_closes_its_letter_when_it_completes(
    house: House, sql: Any
) -> None:
    letter = await house.fails()
    # As if that were long ago, and its end no longer remembered.
    await sql.execute("update marks set value = '[]' where name = 'runs'")
    await house.becomes(letter["run_id"], RUNNING, COMPLETED)

    [closed] = await house.all()
    assert (closed["status"], closed["decided_by"]) == ("replayed", "rota")


# -- listed


async def test_letters_are_found_by_status_definition_and_time(house: House) -> None:
    first, second = await house.fails(), await house.fails(1)
    await house.api.post(f"{house.letters}/{first['id']}/discard", json={"note": "Done."})

    def ids(found: list[dict[str, Any]]) -> list[str]:
        return [one["id"] for one in found]

    assert ids(await house.all()) == [second["id"], first["id"]]
    assert ids(await house.all(status="open")) == [second["id"]]
    assert ids(await house.all(status="discarded")) == [first["id"]]
    assert ids(await house.all(since=second["last_at"])) == [second["id"]]
    assert ids(await house.all(until=first["last_at"])) == [first["id"]]
    assert await house.all(definition="other") == []


async def test_a_list_goes_on_from_a_row(house: House) -> None:
    expected = [(await house.fails(minutes))["id"] for minutes in range(3)][::-1]

    page = (await house.api.get(house.letters, params={"limit": 2})).json()
    rest = (await house.api.get(page["next"])).json()

    assert [one["id"] for one in page["items"] + rest["items"]] == expected


# -- replayed


async def test_a_replay_has_the_same_parameters_and_is_due_now(house: House) -> None:
    letter = await house.fails(parameters={"workflow_id": "x"})

    replayed = await house.replay(letter)

    assert (replayed["status"], replayed["replays"]) == ("replayed", 1)
    assert replayed["decided_by"] == "editor"
    run = await house.gateway.run(replayed["replay_run_id"])
    assert run["id"] != letter["run_id"]
    assert run["parameters"] == letter["parameters"]
    assert datetime.fromisoformat(run["expected_start_time"]) > BEGAN + timedelta(hours=1)


seen: list[Occurrence] = []


@flow
async def notes(workflow_id: str) -> None:
    seen.append(current_occurrence())


async def test_the_duty_sees_the_occurrence_and_the_key_of_the_run_that_failed(
    house: House, prefect: httpx.AsyncClient
) -> None:
    letter = await house.fails()
    replayed = await house.replay(letter)
    seen.clear()
    async with get_client() as client:
        for run_id in (letter["run_id"], replayed["replay_run_id"]):
            body = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
            (await prefect.post(f"/flow_runs/{run_id}/set_state", json=body)).raise_for_status()
            run = await client.read_flow_run(UUID(run_id))
            await run_flow_async(notes, flow_run=run, parameters={"workflow_id": "x"})

    of_the_failed, of_the_replay = seen
    assert of_the_replay.idempotency_key == of_the_failed.idempotency_key
    assert of_the_replay.trigger == of_the_failed.trigger
    assert of_the_replay.at == BEGAN


async def test_a_replay_that_is_asked_for_twice_makes_one_run(house: House) -> None:
    letter = await house.fails()

    first, second = await asyncio.gather(house.replay(letter), house.replay(letter))

    assert first == second


async def test_a_replay_that_broke_off_before_it_was_noted_makes_no_second_run(
    house: House, sql: Any
) -> None:
    letter = await house.fails()
    first = await house.replay(letter)
    # As whoever is killed leaves it.
    await sql.execute("update dead_letters set status = 'open', replays = 0, replay_run_id = null")

    assert (await house.replay(letter))["replay_run_id"] == first["replay_run_id"]


async def test_a_replay_that_fails_opens_its_letter_again(house: House) -> None:
    letter = await house.fails()
    replayed = await house.replay(letter)
    await house.becomes(replayed["replay_run_id"], RUNNING, CRASHED)

    [again] = await house.all()
    assert (again["id"], again["status"]) == (letter["id"], "open")
    assert (again["attempts"], again["error"]) == (2, "The process ended.")
    assert again["run_id"] == replayed["replay_run_id"]
    assert again["occurrence"] == letter["occurrence"]
    assert again["first_at"] == letter["first_at"]
    assert again["last_at"] > letter["last_at"]
    assert (await house.replay(again))["replay_run_id"] != replayed["replay_run_id"]


async def test_a_replay_that_completes_leaves_its_letter_replayed(house: House) -> None:
    replayed = await house.replay(await house.fails())
    await house.becomes(replayed["replay_run_id"], RUNNING, COMPLETED)

    assert await house.all() == [replayed]


async def test_a_run_that_prefect_has_no_longer_is_replayed_all_the_same(house: House) -> None:
    letter = await house.fails()
    (await house.prefect.delete(f"/flow_runs/{letter['run_id']}")).raise_for_status()

    assert (await house.replay(letter))["status"] == "replayed"


async def test_nothing_is_replayed_of_a_suspended_tenant(house: House, acme: str) -> None:
    letter = await house.fails()
    await house.api.post(f"/tenants/{acme}/suspend", json={"reason": "Unpaid"})

    for path in (f"{house.letters}/{letter['id']}/replay", f"{house.letters}/replay"):
        answer = await house.api.post(path)
        assert answer.status_code == 409
        assert "suspended" in answer.json()["detail"]
    assert (await house.all()) == [letter]


async def test_a_letter_outlives_its_definition_and_is_not_replayed_then(house: House) -> None:
    letter = await house.fails()
    await house.api.delete(house.path)

    answer = await house.api.post(f"{house.letters}/{letter['id']}/replay")
    assert answer.status_code == 409
    assert "is gone; discard it" in answer.json()["detail"]
    many = (await house.api.post(f"{house.letters}/replay")).json()
    assert [one["id"] for one in many["skipped"]] == [letter["id"]]
    assert await house.all() == [letter]


async def test_a_letter_of_another_tenant_is_not_there(house: House, sql: Any) -> None:
    letter = await house.fails()
    await sql.execute("insert into tenants (slug) values ('globex')")

    for what in ("replay", "discard"):
        answer = await house.api.post(f"/tenants/globex/dead-letters/{letter['id']}/{what}")
        assert answer.status_code == 404
    assert (await house.api.get(f"/tenants/globex/dead-letters/{letter['id']}")).status_code == 404


# -- many at once


async def test_many_are_replayed_at_a_rate_the_first_that_failed_at_first(house: House) -> None:
    expected = [(await house.fails(minutes))["id"] for minutes in range(3)]

    answer = await house.api.post(f"{house.letters}/replay", json={"per_minute": 6, "limit": 2})

    made = answer.json()
    assert [one["id"] for one in made["replayed"]] == expected[:2]
    due = await _due(house, made)
    assert due[1] - due[0] == timedelta(seconds=10)
    assert datetime.fromisoformat(made["until"]) == due[1]

    more = (await house.api.post(f"{house.letters}/replay", json={"per_minute": 6})).json()
    assert [one["id"] for one in more["replayed"]] == expected[2:]
    assert await _due(house, more) == [due[1] + timedelta(seconds=10)]
    nothing = (await house.api.post(f"{house.letters}/replay")).json()
    assert nothing == {"replayed": [], "skipped": [], "until": None}


async def test_letters_that_cannot_be_replayed_come_after_those_that_can(
    house: House, sql: Any
) -> None:
    letter = await house.fails()
    await sql.execute(
        "insert into dead_letters (tenant, definition_id, name, run_id, occurrence, trigger, "
        "first_at, last_at) select tenant, gen_random_uuid(), 'gone', gen_random_uuid(), "
        "occurrence, trigger, first_at - n * interval '1 day', last_at "
        "from dead_letters, generate_series(1, 3) n"
    )

    for replayed, skipped in ([letter["id"]], 1), ([], 2):
        made = (await house.api.post(f"{house.letters}/replay", json={"limit": 2})).json()
        assert [one["id"] for one in made["replayed"]] == replayed
        assert len(made["skipped"]) == skipped


async def _due(house: House, made: dict[str, Any]) -> list[datetime]:
    found = [await house.gateway.run(one["run_id"]) for one in made["replayed"]]
    return [datetime.fromisoformat(one["expected_start_time"]) for one in found]


async def test_only_those_that_are_meant_are_replayed(house: House) -> None:
    first, second = await house.fails(), await house.fails(1)

    other = await house.api.post(f"{house.letters}/replay", json={"definition": "other"})
    assert other.json()["replayed"] == []
    made = await house.api.post(f"{house.letters}/replay", json={"since": second["last_at"]})
    assert [one["id"] for one in made.json()["replayed"]] == [second["id"]]
    assert [one["id"] for one in await house.all(status="open")] == [first["id"]]


# -- discarded


async def test_a_discarded_letter_says_why_and_is_not_replayed(house: House) -> None:
    letter = await house.fails()
    path = f"{house.letters}/{letter['id']}"

    discarded = (await house.api.post(f"{path}/discard", "editor", json={"note": "Done."})).json()

    assert (discarded["status"], discarded["note"]) == ("discarded", "Done.")
    assert discarded["decided_by"] == "editor"
    assert (await house.api.post(f"{path}/replay")).status_code == 409
    assert (await house.api.post(f"{house.letters}/replay")).json()["replayed"] == []


async def test_a_letter_that_was_replayed_is_not_discarded(house: House) -> None:
    letter = await house.replay(await house.fails())

    answer = await house.api.post(f"{house.letters}/{letter['id']}/discard")
    assert answer.status_code == 409
