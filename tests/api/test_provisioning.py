"""Setting servers up: one live request a server, whoever asks, and its one result."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from store import provisioning

START = datetime.now(UTC) - timedelta(hours=6)

Claim = Callable[..., Awaitable[list[dict[str, Any]]]]


@pytest.fixture
async def servers(api: Any, acme: str) -> str:
    """The path of the servers of a tenant that has two to be set up, and one that is not."""
    path = f"/tenants/{acme}/servers"
    items = [
        {"provider_id": str(number), "public_ip": f"203.0.113.{number}", "managed": number < 3}
        for number in (1, 2, 3)
    ]
    await api.put(path, "worker", json={"provider": "time4vps", "servers": items})
    return path


@pytest.fixture
def claim(api: Any, servers: str, engine: AsyncEngine) -> Claim:
    """Gives what claims servers, so many seconds after the start; without seconds, over the API."""

    async def ask(seconds: float | None = None, **fields: Any) -> list[dict[str, Any]]:
        if seconds is None:
            answer = await api.post(f"{servers}/provisioning", "worker", json=fields)
            assert answer.status_code == 200, answer.text
            found: list[dict[str, Any]] = answer.json()["requests"]
            return found
        stuck, cooldown = fields.get("stuck_seconds", 1800), fields.get("cooldown_seconds", 120)
        claimed = await provisioning.claim(
            engine,
            servers.split("/")[2],
            START + timedelta(seconds=seconds),
            stuck=timedelta(seconds=stuck),
            cooldown=timedelta(seconds=cooldown),
            limit=fields.get("limit", 100),
        )
        return [{**asdict(one), "request_id": str(one.request_id)} for one in claimed]

    return ask


@pytest.fixture
def publish(api: Any, servers: str) -> Callable[..., Awaitable[int]]:
    """Gives what confirms requests, and returns the last answer's status."""

    async def confirm(*requests: dict[str, Any]) -> int:
        status = 0
        for one in requests:
            path = f"{servers}/{one['handle']}/provisioning/{one['request_id']}/published"
            status = (await api.post(path, "worker")).status_code
        return status

    return confirm


@pytest.fixture
def answer(api: Any, servers: str) -> Callable[..., Awaitable[dict[str, list[str]]]]:
    """Gives what tells how requests have ended, and returns what became of that."""

    async def tell(
        *requests: dict[str, Any], status: str = "success", **fields: Any
    ) -> dict[str, list[str]]:
        results = [
            {
                "request_id": one["request_id"],
                "server_handle": one["handle"],
                "status": status,
                **fields,
            }
            for one in requests
        ]
        path = f"{servers}/provisioning/results"
        found: dict[str, list[str]] = (
            await api.post(path, "worker", json={"results": results})
        ).json()
        return {name: said for name, said in found.items() if said}

    return tell


@pytest.fixture
def read(api: Any, servers: str) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Gives what reads a server."""

    async def get(handle: str = "vps-1") -> dict[str, Any]:
        found: dict[str, Any] = (await api.get(f"{servers}/{handle}")).json()
        return found

    return get


@pytest.fixture
def open_incidents(api: Any, acme: str) -> Callable[..., Awaitable[list[dict[str, Any]]]]:
    """Gives what lists the open incidents."""

    async def get() -> list[dict[str, Any]]:
        found = await api.get(f"/tenants/{acme}/incidents", params={"open": True})
        items: list[dict[str, Any]] = found.json()["items"]
        return items

    return get


def handles(requests: list[dict[str, Any]]) -> list[str]:
    return sorted(one["handle"] for one in requests)


# -- claims


async def test_what_waits_to_be_set_up_is_claimed_and_its_status_stays(
    claim: Claim, read: Any
) -> None:
    first, second = await claim()
    assert handles([first, second]) == ["vps-1", "vps-2"]
    assert first["request_id"] != second["request_id"]
    assert (first["is_recovery"], first["public_ip"]) == (False, "203.0.113.1")
    found = await read()
    assert found["status"] == "pending_setup"
    assert found["provisioning_request"] == first["request_id"]
    assert found["provisioning_published_at"] is None
    assert await claim() == []


async def test_of_many_who_claim_at_once_each_server_goes_to_one(api: Any, claim: Claim) -> None:
    await api.token("worker")
    found = await asyncio.gather(*(claim() for _ in range(10)))
    assert handles([one for batch in found for one in batch]) == ["vps-1", "vps-2"]


async def test_a_limit_leaves_the_others_to_the_next(claim: Claim) -> None:
    assert [handles(await claim(limit=1)) for _ in range(3)] == [["vps-1"], ["vps-2"], []]


async def test_what_was_never_published_is_handed_out_again_as_the_same_request(
    claim: Claim,
) -> None:
    first = await claim(0)
    assert await claim(119) == []
    assert await claim(120) == first
    assert await claim(200) == []
    assert await claim(201, cooldown_seconds=60) == first


async def test_what_was_published_is_asked_for_anew_when_it_takes_too_long(
    claim: Claim, publish: Any, read: Any
) -> None:
    first = await claim(0)
    assert await publish(*first) == 204
    assert await publish(*first) == 204
    assert (await read())["provisioning_published_at"]
    assert await claim(1799) == []
    again = await claim(1800)
    assert handles(again) == ["vps-1", "vps-2"]
    assert not {one["request_id"] for one in first} & {one["request_id"] for one in again}
    assert (await read())["provisioning_published_at"] is None


async def test_what_has_been_set_up_for_too_long_is_a_recovery(
    api: Any, servers: str, claim: Claim, publish: Any, sql: asyncpg.Connection, read: Any
) -> None:
    first = await claim(0)
    await publish(*first)
    await api.patch(f"{servers}/vps-1", "worker", json={"status": "provisioning"})
    found = await read()
    assert found["provisioning_request"] == first[0]["request_id"]
    assert found["provisioning_started_at"]
    since = START + timedelta(seconds=100)
    await sql.execute("update servers set provisioning_started_at = $1", since)
    assert handles(await claim(1899)) == ["vps-2"]
    (again,) = await claim(1900)
    assert (again["handle"], again["is_recovery"]) == ("vps-1", True)
    assert again["request_id"] != first[0]["request_id"]


async def test_one_that_was_begun_by_sql_is_claimed_when_it_is_stuck(
    claim: Claim, sql: asyncpg.Connection
) -> None:
    await sql.execute("update servers set status = 'provisioning' where handle = 'vps-3'")
    await sql.execute(
        "update servers set managed = true, status = 'active' where handle <> 'vps-3'"
    )
    await sql.execute("update servers set provisioning_started_at = $1", START)
    assert await claim(1800) == []  # for it is not managed
    await sql.execute("update servers set managed = true")
    assert handles(await claim(1800)) == ["vps-3"]


async def test_whoever_wants_it_set_up_again_gets_a_new_request(
    api: Any, servers: str, claim: Claim, publish: Any, answer: Any
) -> None:
    first = await claim()
    await publish(*first)
    for status in ("active", "pending_setup"):
        await api.patch(f"{servers}/vps-1", "editor", json={"status": status})
    assert await publish(first[0]) == 409
    assert await answer(first[0]) == {"superseded": [first[0]["request_id"]]}
    (again,) = await claim()
    assert again["request_id"] != first[0]["request_id"]


# -- confirmations


async def test_only_a_live_request_is_confirmed(claim: Claim, publish: Any) -> None:
    first = await claim()
    assert await publish({"handle": "vps-1", "request_id": first[1]["request_id"]}) == 409
    assert await publish({"handle": "vps-9", "request_id": first[1]["request_id"]}) == 404
    assert await publish({"handle": "vps-1", "request_id": "nonsense"}) == 422


# -- results


async def test_a_success_makes_a_server_ready(claim: Claim, answer: Any, read: Any) -> None:
    first = await claim()
    assert await answer(*first, server_ip="198.51.100.1") == {"applied": ["vps-1", "vps-2"]}
    found = await read()
    assert (found["status"], found["provisioning_attempts"]) == ("ready", 0)
    assert (found["provisioning_request"], found["public_ip"]) == (None, "203.0.113.1")
    assert await claim(10_000) == []


async def test_a_server_without_an_address_gets_that_of_the_result(
    claim: Claim, answer: Any, read: Any, sql: asyncpg.Connection
) -> None:
    await sql.execute("update servers set public_ip = null")
    await answer(*await claim(), server_ip="198.51.100.1")
    assert (await read())["public_ip"] == "198.51.100.1"


@pytest.mark.parametrize("status", ["failed", "error"])
async def test_a_failure_is_an_incident_until_a_success(
    api: Any,
    servers: str,
    claim: Claim,
    answer: Any,
    read: Any,
    open_incidents: Any,
    status: str,
) -> None:
    first = await claim(limit=1)
    ended = {"error": "no route", "finished_at": "2026-03-01T07:00:00Z"}
    assert await answer(*first, status=status, **ended) == {"applied": ["vps-1"]}
    found = await read()
    assert (found["status"], found["provisioning_attempts"]) == ("error", 1)
    (incident,) = await open_incidents()
    assert (incident["kind"], incident["server"]) == ("provisioning_failed", "vps-1")
    assert (incident["severity"], incident["title"]) == (
        "critical",
        "could not be set up: no route",
    )
    assert incident["details"]["attempts"] == 1
    await api.patch(f"{servers}/vps-1", json={"status": "pending_setup"})
    await answer(*await claim(limit=1), status=status)
    assert (await read())["provisioning_attempts"] == 2
    assert [one["id"] for one in await open_incidents()] == [incident["id"]]
    await api.patch(f"{servers}/vps-1", json={"status": "pending_setup"})
    await answer(*await claim(limit=1))
    assert ((await read())["status"], await open_incidents()) == ("ready", [])


async def test_the_same_result_twice_changes_nothing(
    api: Any, servers: str, claim: Claim, answer: Any, read: Any, sql: asyncpg.Connection
) -> None:
    first = await claim(limit=1)
    await api.token("worker")
    found = await asyncio.gather(*(answer(*first, status="failed") for _ in range(8)))
    assert sum("applied" in one for one in found) == 1
    assert sum(one.get("superseded") == [first[0]["request_id"]] for one in found) == 7
    assert (await read())["provisioning_attempts"] == 1
    assert await sql.fetchval("select count(*) from notices where kind = 'incident_opened'") == 1
    assert await answer(*first, *first) == {"superseded": [first[0]["request_id"]] * 2}


async def test_only_the_live_request_s_result_counts(
    claim: Claim, publish: Any, answer: Any, read: Any
) -> None:
    first = await claim(0, limit=1)
    await publish(*first)
    again = await claim(1800, limit=1)
    assert handles(again) == ["vps-1"]
    assert await answer(*first, status="failed") == {"superseded": [first[0]["request_id"]]}
    assert (await read())["status"] == "pending_setup"
    assert await answer(*again) == {"applied": ["vps-1"]}


async def test_a_result_for_a_server_that_is_not_there_is_unknown(
    claim: Claim, answer: Any
) -> None:
    first = await claim(limit=1)
    stray = {"handle": "web-9", "request_id": str(uuid4())}
    assert await answer(stray, *first) == {"applied": ["vps-1"], "unknown": [stray["request_id"]]}


async def test_the_result_of_another_tenant_s_server_of_that_name_is_not_applied(
    api: Any, claim: Claim, read: Any
) -> None:
    first = (await claim())[0]
    await api.post("/tenants", json={"slug": "other"})
    await api.post("/tenants/other/servers", json={"handle": "vps-1"})
    result = {"request_id": first["request_id"], "server_handle": "vps-1", "status": "failed"}
    path = "/tenants/other/servers/provisioning/results"
    found = await api.post(path, "worker", json={"results": [result]})
    assert found.json()["superseded"] == [first["request_id"]]
    assert (await read())["status"] == "pending_setup"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"status": "fine"}, "status"),
        ({"server_handle": "No Slug"}, "server_handle"),
        ({"request_id": "nonsense"}, "request_id"),
        ({"server_ip": "here"}, "server_ip"),
        ({"finished_at": "2026-03-01"}, "finished_at"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_result_that_does_not_fit_refuses_all_of_them(
    api: Any, servers: str, claim: Claim, read: Any, fields: Any, field: str
) -> None:
    first = (await claim())[0]
    good = {"request_id": first["request_id"], "server_handle": "vps-1", "status": "success"}
    body = {"results": [good, {**good, **fields}]}
    answer = await api.post(f"{servers}/provisioning/results", "worker", json=body)
    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["errors"]] == [f"results.1.{field}"]
    assert (await read())["status"] == "pending_setup"


async def test_a_claim_counts_by_the_database_s_clock_and_by_no_other(
    api: Any, servers: str, claim: Claim, publish: Any, read: Any, sql: asyncpg.Connection
) -> None:
    before = await sql.fetchval("select clock_timestamp()")
    first = await claim()
    assert await publish(*first) == 204
    at = datetime.fromisoformat((await read())["provisioning_requested_at"])
    assert before <= at <= await sql.fetchval("select clock_timestamp()")
    assert await claim() == []
    behind = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    refused = await api.post(f"{servers}/provisioning", "worker", json={"at": behind})
    assert refused.status_code == 422
    assert [one["field"] for one in refused.json()["errors"]] == ["at"]


@pytest.mark.parametrize(
    ("seconds", "fields", "again"),
    [(60, {}, False), (120, {}, True), (60, {"cooldown_seconds": 60}, True)],
)
async def test_a_claim_over_the_api_keeps_to_the_cool_down_that_it_names(
    claim: Claim, sql: asyncpg.Connection, seconds: int, fields: dict[str, int], again: bool
) -> None:
    first = await claim()
    since = "provisioning_requested_at = provisioning_requested_at - make_interval(secs => $1)"
    await sql.execute(f"update servers set {since}", seconds)
    assert await claim(**fields) == (first if again else [])
