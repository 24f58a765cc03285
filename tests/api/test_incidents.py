"""Incidents: at most one open of a kind; and the notices that people get of them."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

AT = "2026-03-01T07:00:00Z"
LATER = "2026-03-01T08:00:00Z"
API_DOWN = {"server": None, "kind": "provider_api_unavailable", "about": "time4vps"}
SKEW = {"server": "web-1", "kind": "clock_skew", "about": ""}

Put = Callable[..., Awaitable[dict[str, list[dict[str, Any]]]]]


@pytest.fixture
async def tenant_path(api: Any, acme: str) -> str:
    """The path of a tenant that has a server web-1."""
    await api.post(f"/tenants/{acme}/servers", json={"handle": "web-1"})
    return f"/tenants/{acme}"


@pytest.fixture
def put(api: Any, tenant_path: str) -> Put:
    """Gives what opens and closes incidents, and returns what became of them."""

    async def write(
        opening: Any = (), closing: Any = (), at: str = AT
    ) -> dict[str, list[dict[str, Any]]]:
        body = {"at": at, "open": list(opening), "close": list(closing)}
        answer = await api.put(f"{tenant_path}/incidents", "worker", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, list[dict[str, Any]]] = answer.json()
        return found

    return write


@pytest.fixture
def claim(api: Any, tenant_path: str) -> Callable[..., Awaitable[list[dict[str, Any]]]]:
    """Gives what claims notices."""

    async def ask(limit: int = 100) -> list[dict[str, Any]]:
        answer = await api.post(f"{tenant_path}/notices/claim", "worker", json={"limit": limit})
        assert answer.status_code == 200
        found: list[dict[str, Any]] = answer.json()["notices"]
        return found

    return ask


def opening(one: dict[str, Any], title: str = "Something is wrong", **fields: Any) -> Any:
    return {**one, "title": title, **fields}


async def test_an_incident_opens_once_and_closes_once(put: Put, claim: Any) -> None:
    first = await put([opening(API_DOWN, severity="critical", details={"status_code": 502})])
    (opened,) = first["opened"]
    assert {name: opened[name] for name in API_DOWN} == API_DOWN
    assert (opened["status"], opened["detected_at"], opened["resolved_at"]) == (
        "detected",
        AT,
        None,
    )
    second = await put([opening(API_DOWN, "Still", details={"status_code": 503})], at=LATER)
    (still,) = second["still_open"]
    assert (still["id"], still["detected_at"]) == (opened["id"], AT)
    assert (still["last_seen_at"], still["title"]) == (LATER, "Still")
    assert (still["severity"], still["details"]) == ("warning", {"status_code": 503})
    assert second["opened"] == []
    (closed,) = (await put(closing=[API_DOWN], at=LATER))["closed"]
    assert (closed["id"], closed["status"], closed["resolved_at"]) == (
        opened["id"],
        "resolved",
        LATER,
    )
    assert await put(closing=[API_DOWN], at=LATER) == {"opened": [], "still_open": [], "closed": []}
    assert [(one["kind"], one["severity"]) for one in await claim()] == [
        ("incident_opened", "critical"),
        ("incident_closed", "info"),
    ]
    assert (await put([opening(API_DOWN)], at=LATER))["opened"][0]["id"] != opened["id"]


async def test_incidents_differ_by_server_kind_and_what_they_are_about(put: Put) -> None:
    several = [
        opening(SKEW),
        opening({**SKEW, "server": None}),
        opening({**SKEW, "about": "ntp"}),
        opening({**SKEW, "kind": "service_down"}),
    ]
    assert len((await put(several))["opened"]) == 4
    assert len((await put(several))["still_open"]) == 4
    assert len((await put(closing=[SKEW]))["closed"]) == 1


async def test_one_that_is_named_twice_in_one_call_is_one(put: Put) -> None:
    found = await put([opening(SKEW, "First"), opening(SKEW, "Last")])
    assert [one["title"] for one in found["opened"]] == ["Last"]
    found = await put([opening(SKEW)], [SKEW, SKEW])
    assert (len(found["still_open"]), len(found["closed"])) == (1, 1)


async def test_what_was_seen_open_later_is_not_closed_by_a_call_that_comes_late(put: Put) -> None:
    await put([opening(SKEW)], at=LATER)
    assert (await put(closing=[SKEW], at=AT))["closed"] == []
    assert (await put([opening(SKEW, "Old")], at=AT))["still_open"][0]["last_seen_at"] == LATER


async def test_who_opens_at_once_opens_one(
    api: Any, put: Put, claim: Any, sql: asyncpg.Connection
) -> None:
    await api.token("worker")
    found = await asyncio.gather(*(put([opening(SKEW), opening(API_DOWN)]) for _ in range(8)))
    assert sorted(len(one["opened"]) for one in found) == [0] * 7 + [2]
    found = await asyncio.gather(*(put(closing=[API_DOWN, SKEW]) for _ in range(8)))
    assert sorted(len(one["closed"]) for one in found) == [0] * 7 + [2]
    assert len(await claim()) == 4
    assert await sql.fetchval("select count(*) from incidents") == 2


async def test_the_database_itself_holds_one_open_incident(
    put: Put, acme: str, sql: asyncpg.Connection
) -> None:
    await put([opening(API_DOWN)])
    insert = (
        "insert into incidents (tenant, kind, about, severity, title) "
        "values ($1, 'provider_api_unavailable', 'time4vps', 'warning', 'Again')"
    )
    with pytest.raises(asyncpg.UniqueViolationError, match="one open incident"):
        await sql.execute(insert, acme)
    await put(closing=[API_DOWN])
    await sql.execute(insert, acme)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"server": "web-2"}, "server"),
        ({"server": "Web 1"}, "server"),
        ({"kind": "Clock Skew"}, "kind"),
        ({"severity": "bad"}, "severity"),
        ({"title": ""}, "title"),
        ({"about": "x" * 201}, "about"),
        ({"details": {"a": "x" * 65536}}, "details"),
        ({"details": {"a": "b\0"}}, "details"),
        ({"details": None}, "details"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_one_that_does_not_fit_refuses_all_of_them(
    api: Any, tenant_path: str, fields: Any, field: str, sql: asyncpg.Connection
) -> None:
    body = {"at": AT, "open": [opening(API_DOWN), opening(SKEW, **fields)]}
    answer = await api.put(f"{tenant_path}/incidents", json=body)
    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["errors"]] == [f"open.1.{field}"]
    assert await sql.fetchval("select count(*) from incidents") == 0


async def test_what_is_yet_to_come_is_refused(api: Any, tenant_path: str) -> None:
    at = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    for path, body in (
        ("incidents", {"at": at}),
        ("servers/checks", {"at": at, "checks": [], "prober": "x"}),
    ):
        answer = await api.put(f"{tenant_path}/{path}", json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "at"


async def test_a_clock_that_is_a_little_ahead_is_taken_for_now(put: Put) -> None:
    ahead = (datetime.now(UTC) + timedelta(minutes=50)).isoformat()
    (opened,) = (await put([opening(SKEW)], at=ahead))["opened"]
    assert datetime.fromisoformat(opened["last_seen_at"]) <= datetime.now(UTC)
    now = datetime.now(UTC).isoformat()
    assert len((await put(closing=[SKEW], at=now))["closed"]) == 1


async def test_only_the_incidents_that_are_named_are_waited_for(
    put: Put, sql: asyncpg.Connection
) -> None:
    await put([opening(SKEW), opening(API_DOWN)])
    async with sql.transaction():
        await sql.execute("select from incidents where about = 'time4vps' for update")
        assert len((await put([opening(SKEW)]))["still_open"]) == 1


async def test_a_tenant_has_no_more_than_ten_thousand_open(
    api: Any, tenant_path: str, acme: str, put: Put, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "insert into incidents (tenant, kind, about, severity, title, last_seen_at) "
        "select $1, 'clock_skew', number::text, 'warning', 'Many', '2026-03-01' "
        "from generate_series(1, 9999) number",
        acme,
    )
    two = [opening(SKEW), opening(API_DOWN)]
    answer = await api.put(f"{tenant_path}/incidents", json={"at": AT, "open": two})
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith("10001 incidents would be open")
    known = {**SKEW, "server": None, "about": "17"}
    assert len((await put(two, [known]))["opened"]) == 2
    assert len((await put([opening(SKEW)]))["still_open"]) == 1


# -- one incident


async def test_whoever_mends_it_says_so(api: Any, tenant_path: str, put: Put, claim: Any) -> None:
    (opened,) = (await put([opening(SKEW)]))["opened"]
    path = f"{tenant_path}/incidents/{opened['id']}"
    await claim()
    for _ in range(2):
        found = (await api.patch(path, "editor", json={"status": "recovering"})).json()
        assert (found["status"], found["recovery_attempts"]) == ("recovering", 1)
    assert (await put([opening(SKEW)]))["still_open"][0]["recovery_attempts"] == 1
    await api.patch(path, json={"status": "detected"})
    found = (await api.patch(path, json={"status": "recovering", "details": {"a": 1}})).json()
    assert (found["recovery_attempts"], found["details"]) == (2, {"a": 1})
    assert await claim() == []
    found = (await api.patch(path, json={"status": "resolved"})).json()
    assert found["status"] == "resolved"
    assert found["resolved_at"] > found["detected_at"]
    assert [one["kind"] for one in await claim()] == ["incident_closed"]
    assert (await api.patch(path, json={"status": "resolved"})).status_code == 200
    assert (await api.patch(path, json={"status": "detected"})).status_code == 409
    assert (await api.patch(path, json={"details": {}})).json()["details"] == {}
    assert await claim() == []


async def test_an_incident_is_read_by_its_tenant_alone(
    api: Any, tenant_path: str, put: Put
) -> None:
    (opened,) = (await put([opening(SKEW)]))["opened"]
    assert (await api.get(f"{tenant_path}/incidents/{opened['id']}")).json() == opened
    await api.post("/tenants", json={"slug": "other"})
    for path in (f"/tenants/other/incidents/{opened['id']}", "/tenants/nobody/incidents"):
        assert (await api.get(path)).status_code == 404
    other = f"/tenants/other/incidents/{opened['id']}"
    assert (await api.patch(other, json={"status": "resolved"})).status_code == 404
    unknown = f"{tenant_path}/incidents/5d0c9a52-2f0e-4d5a-8f43-0b8a4d8f2b11"
    assert (await api.get(unknown)).status_code == 404


async def test_incidents_are_listed_by_what_they_are_the_latest_first(
    api: Any, tenant_path: str, put: Put
) -> None:
    await put([opening(SKEW)], at="2026-03-01T07:00:00Z")
    await put([opening(API_DOWN)], at="2026-03-01T08:00:00Z")
    await put([opening({**SKEW, "about": "ntp"})], [API_DOWN], at="2026-03-01T09:00:00Z")
    path = f"{tenant_path}/incidents"
    for params, expected in (
        ({}, ["ntp", "time4vps", ""]),
        ({"open": True}, ["ntp", ""]),
        ({"open": False}, ["time4vps"]),
        ({"status": "resolved"}, ["time4vps"]),
        ({"kind": "clock_skew"}, ["ntp", ""]),
        ({"server": "web-1", "status": "detected"}, ["ntp", ""]),
        ({"server": "a\0b"}, []),
    ):
        for paging in ({}, {"limit": 10}):
            found = (await api.get(path, "viewer", params={**params, **paging})).json()
            assert [one["about"] for one in found["items"]] == expected, params
            assert found["total"] in (None, len(expected))
    first = (await api.get(path, params={"limit": 2})).json()
    rest = (await api.get(first["next"])).json()
    assert [one["about"] for one in rest["items"]] == [""]
    assert rest["next"] is None
    assert (await api.get(rest["previous"])).json()["items"] == first["items"]
    assert (await api.get(path, params={"after": "WyJ4Il0"})).status_code == 422


# -- at the limit

CROWDED = (None, "too_many_incidents", "")


@pytest.fixture
async def crowded(tenant_path: str, sql: asyncpg.Connection) -> str:
    """The tenant's path, once so many incidents are open that there is room for two."""
    await sql.execute(
        "insert into incidents (tenant, kind, about, severity, title, details, detected_at, "
        "last_seen_at) select slug, 'clock_skew', number::text, 'warning', 'Late', '{}', $1, $1 "
        "from tenants, generate_series(1, 9998) number",
        datetime.fromisoformat(AT),
    )
    await sql.execute("update servers set status = 'in_use'")
    return tenant_path


@pytest.fixture
def look(api: Any, crowded: str) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Gives what records what is wrong with web-1, so many minutes after the start."""

    async def record(minute: int, *problems: str) -> dict[str, Any]:
        troubles = [
            {"kind": "service_down", "about": about, "level": level, "text": "Is down."}
            for level, _, about in (one.partition(" ") for one in problems)
        ]
        at = (datetime.fromisoformat(AT) + timedelta(minutes=minute)).isoformat()
        check = {"handle": "web-1", "outcome": "up", "problems": troubles}
        body = {"at": at, "checks": [check], "prober": "health"}
        answer = await api.put(f"{crowded}/servers/checks", "worker", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return record


def identities(incidents: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(one["server"], one["kind"], one["about"]) for one in incidents]


async def test_at_the_limit_checks_are_recorded_and_the_worst_is_opened(
    api: Any, crowded: str, look: Any, sql: asyncpg.Connection
) -> None:
    first = await look(1, "degraded a", "degraded b", "critical c")
    of_web = [("web-1", "service_down", about) for about in "ca"]
    assert identities(first["opened"]) == [*of_web, CROWDED]
    assert first["states"] == {"web-1": "critical"}
    assert (await look(2, "degraded a", "degraded b", "critical c"))["opened"] == []
    third = await look(3, "degraded a", "degraded b")
    assert identities(third["closed"]) == [of_web[0]]
    assert identities(third["opened"]) == [("web-1", "service_down", "b")]
    ended = sorted(identities((await look(4))["closed"]))
    assert ended == [("web-1", "service_down", about) for about in "ab"]
    await sql.execute("delete from incidents where length(about) = 4 and about > '9001'")
    assert (await look(5))["closed"] == []
    await sql.execute("delete from incidents where about = '1'")
    assert identities((await look(6))["closed"]) == [CROWDED]


async def test_a_server_s_result_is_applied_at_the_limit(
    api: Any, crowded: str, look: Any, put: Put
) -> None:
    await look(1, "degraded a", "degraded b")
    await api.post(
        f"{crowded}/servers", json={"handle": "web-3", "managed": True, "status": "pending_setup"}
    )
    claimed = (await api.post(f"{crowded}/servers/provisioning", "worker", json={})).json()
    (request_id,) = [one["request_id"] for one in claimed["requests"]]
    result = {"request_id": request_id, "server_handle": "web-3", "status": "failed"}
    path = f"{crowded}/servers/provisioning/results"
    answer = await api.post(path, "worker", json={"results": [result]})
    assert (answer.status_code, answer.json()["applied"]) == (200, ["web-3"])


# -- notices


async def test_a_notice_says_what_and_where(put: Put, claim: Any) -> None:
    await put([opening({**SKEW, "about": "ntp"}, "is 40 s late")])
    (one,) = await claim()
    assert one["subject"] == "web-1: is 40 s late"
    assert one["text"] == (
        "Incident clock_skew (ntp) of web-1, warning, seen at 2026-03-01 07:00:00 UTC."
    )
    await put(closing=[{**SKEW, "about": "ntp"}], at="2026-03-01T09:30:00+01:00")
    (one,) = await claim()
    assert one["subject"] == "Over: web-1: is 40 s late"
    assert one["text"].endswith("from 2026-03-01 07:00:00 UTC to 2026-03-01 08:30:00 UTC.")


async def test_each_notice_is_handed_out_to_one_who_asks(api: Any, put: Put, claim: Any) -> None:
    await put([opening({**SKEW, "about": str(number)}) for number in range(50)])
    found = await asyncio.gather(*(claim(limit=9) for _ in range(8)))
    ids = [one["id"] for batch in found for one in batch]
    assert len(ids) == len(set(ids)) == 50
    assert all(
        [one["id"] for one in batch] == sorted(one["id"] for one in batch) for batch in found
    )
    assert await claim() == []


async def test_what_is_older_than_a_day_is_not_told_any_more_and_goes_away(
    put: Put, claim: Any, sql: asyncpg.Connection
) -> None:
    await put([opening(SKEW), opening(API_DOWN)])
    await sql.execute(
        "update notices set at = now() - interval '25 hours' where subject like 'web-1%'"
    )
    assert [one["subject"] for one in await claim()] == ["Something is wrong"]
    await put(closing=[SKEW])
    assert await sql.fetchval("select count(*) from notices") == 2


async def test_another_tenant_s_notices_are_not_handed_out(api: Any, put: Put, claim: Any) -> None:
    await put([opening(SKEW)])
    await api.post("/tenants", json={"slug": "other"})
    answer = await api.post("/tenants/other/notices/claim", json={})
    assert answer.json() == {"notices": []}
    assert (await api.post("/tenants/nobody/notices/claim", json={})).status_code == 404
    assert len(await claim()) == 1


async def test_a_viewer_claims_nothing(api: Any, tenant_path: str) -> None:
    for method, path in (("POST", "notices/claim"), ("PUT", "incidents")):
        answer = await api.call(method, f"{tenant_path}/{path}", "viewer", json={"at": AT})
        assert answer.status_code == 403
