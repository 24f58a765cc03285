"""Sweeps of checks: what they write of servers and incidents, once and in order."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

START = datetime(2026, 3, 1, 7, tzinfo=UTC)
DISK = {
    "kind": "resource_exhausted",
    "about": "disk /var",
    "level": "critical",
    "text": "disk /var is 96 % full",
}

Sweep = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def tenant_path(api: Any, acme: str) -> str:
    """The path of a tenant that has six servers, s1 to s6."""
    for number in range(1, 7):
        body = {"handle": f"s{number}", "status": "in_use"}
        await api.post(f"/tenants/{acme}/servers", json=body)
    return f"/tenants/{acme}"


@pytest.fixture
def sweep(api: Any, tenant_path: str) -> Sweep:
    """Gives what records a sweep: outcomes by handle, so many minutes after the start."""

    async def record(
        minutes: float, problems: Any = (), reason: str | None = None, **outcomes: str
    ) -> dict[str, Any]:
        checks = [
            {
                "handle": handle,
                "outcome": outcome,
                "reason": reason,
                "facts": {"minute": minutes} if outcome == "up" else None,
                "problems": list(problems),
            }
            for handle, outcome in outcomes.items()
        ]
        body = {
            "at": (START + timedelta(minutes=minutes)).isoformat(),
            "checks": checks,
            "prober": "health",
        }
        answer = await api.put(f"{tenant_path}/servers/checks", "worker", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return record


@pytest.fixture
def server(api: Any, tenant_path: str) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Gives what reads a server."""

    async def read(handle: str = "s1") -> dict[str, Any]:
        found: dict[str, Any] = (await api.get(f"{tenant_path}/servers/{handle}")).json()
        return found

    return read


@pytest.fixture
def opened(api: Any, tenant_path: str) -> Callable[..., Awaitable[list[tuple[Any, ...]]]]:
    """Gives what lists the open incidents: server, kind, about."""

    async def read() -> list[tuple[Any, ...]]:
        found = await api.get(f"{tenant_path}/incidents", params={"open": True})
        items = found.json()["items"]
        return sorted((one["server"] or "", one["kind"], one["about"]) for one in items)

    return read


def kinds(incidents: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(one["server"], one["kind"], one["about"]) for one in incidents]


UNREACHABLE = ("s1", "server_unreachable", "")


async def test_a_server_that_is_lost_is_unreachable_until_it_answers(
    sweep: Sweep, server: Any, opened: Any, api: Any, tenant_path: str
) -> None:
    assert (await sweep(0, s1="up"))["states"] == {"s1": "up"}
    first = await sweep(1, s1="down", reason="timeout")
    assert (first["opened"], first["states"]) == ([], {"s1": "up"})
    second = await sweep(2, s1="down", reason="timeout")
    assert kinds(second["opened"]) == [UNREACHABLE]
    (incident,) = second["opened"]
    assert (incident["severity"], incident["title"]) == ("critical", "cannot be reached: timeout")
    assert incident["details"] == {"prober": "health"}
    assert incident["detected_at"] == "2026-03-01T07:02:00Z"
    found = await server()
    assert (found["status"], found["health"]["status_before"]) == ("unreachable", "in_use")
    assert found["health"]["history"] == "UDD"
    assert found["health"]["facts"] == {"minute": 0}
    assert found["last_health_check_at"] == "2026-03-01T07:02:00Z"
    assert (await sweep(3, s1="down"))["opened"] == []
    last = await sweep(4, s1="up")
    assert kinds(last["closed"]) == [UNREACHABLE]
    assert (last["states"], last["prober"]) == ({"s1": "up"}, "ok")
    assert ((await server())["status"], await opened()) == ("in_use", [])
    changes = (await api.get(f"{tenant_path}/servers/s1/changes")).json()["items"]
    assert [(one["who"], one["before"], one["after"]) for one in changes[:2]] == [
        ("worker", "unreachable", "in_use"),
        ("worker", "in_use", "unreachable"),
    ]


async def test_each_opening_and_each_closing_is_told_once(
    api: Any, sweep: Sweep, tenant_path: str
) -> None:
    for minute, outcome in enumerate(["down", "down", "down", "up", "up"]):
        for _ in range(2):
            await sweep(minute, s1=outcome)
    found = await api.post(f"{tenant_path}/notices/claim", "worker", json={})
    assert [one["subject"] for one in found.json()["notices"]] == [
        "s1: cannot be reached",
        "Over: s1: cannot be reached",
    ]


async def test_problems_open_at_once_and_close_when_they_are_gone(
    sweep: Sweep, server: Any, opened: Any
) -> None:
    first = await sweep(0, [DISK], s1="up")
    assert (kinds(first["opened"]), first["states"]) == (
        [("s1", "resource_exhausted", "disk /var")],
        {"s1": "critical"},
    )
    assert (await server())["health"]["problems"] == [DISK]
    await sweep(1, s1="unknown")
    assert len(await opened()) == 1
    better = {**DISK, "level": "degraded", "text": "disk /var is 91 % full"}
    second = await sweep(2, [better], s1="up")
    assert (second["opened"], second["closed"], second["states"]["s1"]) == ([], [], "degraded")
    assert len((await sweep(3, s1="up"))["closed"]) == 1
    assert (await server())["status"] == "in_use"


async def test_a_changed_host_key_is_an_incident_though_the_outcome_is_unknown(
    sweep: Sweep,
) -> None:
    key = {"kind": "host_key_changed", "level": "critical", "text": "shows another host key"}
    found = await sweep(0, [key], s1="unknown", reason="another host key")
    assert kinds(found["opened"]) == [("s1", "host_key_changed", "")]
    assert found["states"] == {"s1": "unknown"}


async def test_a_problem_that_was_seen_later_by_somebody_else_is_closed_by_a_later_check(
    api: Any, sweep: Sweep, server: Any, opened: Any, tenant_path: str
) -> None:
    await sweep(0, [DISK], s1="up", s2="up")
    seen = {"server": "s1", "kind": DISK["kind"], "about": DISK["about"], "title": "Full"}
    body = {"at": (START + timedelta(minutes=5)).isoformat(), "open": [seen]}
    await api.put(f"{tenant_path}/incidents", json=body)
    assert [one["server"] for one in (await sweep(1, s1="up", s2="up"))["closed"]] == ["s2"]
    assert (await server())["health"]["state"] == "up"
    await sweep(6, s1="down")
    assert await opened() == [("s1", "resource_exhausted", "disk /var")]
    found = await sweep(7, s1="up")
    assert kinds(found["closed"]) == [("s1", "resource_exhausted", "disk /var")]
    body = {"at": (START + timedelta(minutes=8)).isoformat(), "open": [seen]}
    await api.put(f"{tenant_path}/incidents", json=body)
    assert (await sweep(9, s1="up"))["closed"] == []  # for no check has opened it


async def test_a_sweep_that_comes_late_changes_nothing(sweep: Sweep, server: Any) -> None:
    await sweep(5, s1="up")
    before = await server()
    for minute in (3, 4, 5):
        found = await sweep(minute, [DISK], s1="down")
        assert (found["opened"], found["states"]) == ([], {"s1": "up"})
    assert await server() == before


async def test_the_same_sweep_sent_again_counts_once(api: Any, sweep: Sweep, server: Any) -> None:
    await api.token("worker")
    await asyncio.gather(*(sweep(0, s1="down", s2="up") for _ in range(8)))
    assert (await server())["health"]["failures"] == 1


async def test_of_two_sweeps_at_once_each_is_recorded_or_late(
    api: Any, sweep: Sweep, server: Any, opened: Any, sql: asyncpg.Connection
) -> None:
    await api.token("worker")
    names = [f"s{number}" for number in range(1, 5)]
    forward, backward = (dict.fromkeys(order, "down") for order in (names, names[::-1]))
    for minute in range(0, 6, 2):
        await asyncio.gather(
            *(
                sweep(minute + more, [DISK], **order)
                for more, order in ((0, forward), (1, backward))
            )
        )
    for name in names:
        found = (await server(name))["health"]
        assert found["failures"] == len(found["history"]) >= 3
    assert len(await opened()) == 8
    assert await sql.fetchval("select count(*) from incidents") == 8


async def test_handles_that_no_server_has_are_told_and_the_others_recorded(sweep: Sweep) -> None:
    found = await sweep(0, s1="up", zz="down", aa="up")
    assert (found["states"], found["unknown"]) == ({"s1": "up"}, ["aa", "zz"])


async def test_a_server_named_twice_is_refused(api: Any, tenant_path: str) -> None:
    check = {"handle": "s1", "outcome": "up"}
    body = {"at": START.isoformat(), "checks": [check, check], "prober": "health"}
    answer = await api.put(f"{tenant_path}/servers/checks", json=body)
    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["errors"]] == ["checks.1.handle"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"outcome": "fine"}, "outcome"),
        ({"handle": "No Slug"}, "handle"),
        ({"facts": {"a": float("1e400")}}, "facts"),
        ({"facts": {"a": "x" * 70000}}, "facts"),
        ({"problems": [{**DISK, "level": "bad"}]}, "problems.0.level"),
        ({"problems": [{**DISK, "kind": "Disk full"}]}, "problems.0.kind"),
        ({"problems": [DISK] * 101}, "problems"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_check_that_does_not_fit_refuses_the_sweep(
    api: Any, tenant_path: str, server: Any, fields: Any, field: str
) -> None:
    checks = [{"handle": "s1", "outcome": "up"}, {"handle": "s2", "outcome": "up", **fields}]
    body = {"at": START.isoformat(), "checks": checks, "prober": "health"}
    text = json.dumps(body)
    headers = {"Content-Type": "application/json"}
    answer = await api.put(f"{tenant_path}/servers/checks", content=text, headers=headers)
    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["errors"]] == [f"checks.1.{field}"]
    assert (await server())["last_health_check_at"] is None


# -- maintenance


async def test_in_maintenance_checks_are_recorded_and_nothing_opens(
    api: Any, sweep: Sweep, server: Any, opened: Any, tenant_path: str
) -> None:
    window = {
        "maintenance_from": START.isoformat(),
        "maintenance_until": (START + timedelta(minutes=3)).isoformat(),
    }
    await api.patch(f"{tenant_path}/servers/s1", json=window)
    await api.patch(f"{tenant_path}/servers/s2", json={"status": "maintenance"})
    for minute in (0, 1, 2):
        await sweep(minute, [DISK], s1="down", s2="down")
    assert await opened() == []
    for handle, status in (("s1", "in_use"), ("s2", "maintenance")):
        found = await server(handle)
        assert (found["status"], found["health"]["history"]) == (status, "DDD")
    found = await sweep(3, s1="down", s2="down")
    assert kinds(found["opened"]) == [UNREACHABLE]


async def test_a_server_that_is_to_be_set_up_is_not_called_unreachable(
    api: Any, sweep: Sweep, server: Any, tenant_path: str
) -> None:
    await api.patch(f"{tenant_path}/servers/s1", json={"status": "provisioning"})
    for minute in range(3):
        assert (await sweep(minute, s1="down"))["opened"] == []
    assert (await server())["status"] == "provisioning"


# -- flapping


async def test_a_server_that_goes_up_and_down_is_one_incident(
    sweep: Sweep, server: Any, opened: Any
) -> None:
    pattern = ["up", "up", "down", "down"] * 5
    found: dict[str, Any] = {}
    said = 0
    for minute, outcome in enumerate(pattern):
        found = await sweep(minute, s1=outcome)
        said += sum(one["kind"] == "flapping" for one in found["opened"])
    assert (found["flapping"], said) == (["s1"], 1)
    assert ("s1", "flapping", "") in await opened()
    minute = len(pattern)
    while found["flapping"]:
        found = await sweep(minute, s1="up")
        minute += 1
    assert await opened() == []
    assert (await server())["status"] == "in_use"


# -- the prober


async def test_a_sweep_in_which_most_fail_is_one_incident_about_the_prober(
    sweep: Sweep, server: Any, opened: Any
) -> None:
    everyone = [f"s{number}" for number in range(1, 7)]
    await sweep(0, **dict.fromkeys(everyone, "up"))
    before = [await server(one) for one in everyone[:4]]
    for minute in (1, 2, 3):
        failing = dict.fromkeys(everyone[:2], "down") | dict.fromkeys(everyone[2:4], "unknown")
        found = await sweep(minute, **failing, s5="up", s6="up")
        assert found["prober"] == "failed"
        assert kinds(found["opened"]) == [(None, "prober_failed", "health")] * (minute == 1)
        assert found["states"] == dict.fromkeys(everyone, "up")
    assert [await server(one) for one in everyone[:4]] == before
    assert await opened() == [("", "prober_failed", "health")]
    good = await sweep(4, **dict.fromkeys(everyone, "up"))
    assert kinds(good["closed"]) == [(None, "prober_failed", "health")]
    assert await opened() == []


async def test_who_answers_while_most_fail_is_recorded(
    sweep: Sweep, server: Any, opened: Any
) -> None:
    lost = dict.fromkeys(["s1", "s2", "s3", "s4"], "unknown")
    for minute in (0, 1):
        found = await sweep(minute, [DISK], **lost, s5="up")
        about = [(None, "prober_failed", "health"), ("s5", DISK["kind"], DISK["about"])]
        assert kinds(found["opened"]) == about * (minute == 0)
        assert (found["prober"], found["states"]["s5"]) == ("failed", DISK["level"])
    assert (await server("s5"))["last_health_check_at"] == "2026-03-01T07:01:00Z"
    assert (await server("s1"))["last_health_check_at"] is None
    gone = await sweep(2, **lost, s5="up")
    assert kinds(gone["closed"]) == [("s5", DISK["kind"], DISK["about"])]
    assert await opened() == [("", "prober_failed", "health")]


@pytest.mark.parametrize("outcome", ["unknown", "down"])
async def test_servers_that_stay_as_they_are_do_not_mute_what_happens_to_others(
    sweep: Sweep, outcome: str
) -> None:
    for minute in (0, 1):
        await sweep(minute, s1=outcome, s2=outcome, s3="up", s4="up", s5="up")
    for minute in (2, 3):
        found = await sweep(minute, s1=outcome, s2=outcome, s3="down", s4="up", s5="up")
        assert found["prober"] == "ok"
    assert kinds(found["opened"]) == [("s3", "server_unreachable", "")]


@pytest.mark.parametrize("look", ["good", "empty", "late"])
async def test_a_good_or_an_empty_sweep_closes_what_is_open_of_any_prober(
    api: Any, sweep: Sweep, opened: Any, tenant_path: str, look: str
) -> None:
    everyone = [f"s{number}" for number in range(1, 7)]
    await sweep(1, s1="up")
    await sweep(2, **dict.fromkeys(everyone, "down"))
    other = {"kind": "prober_failed", "about": "another", "title": "Fails"}
    skew = {"kind": "clock_skew", "title": "Late"}
    body = {"at": START.isoformat(), "open": [other, skew]}
    await api.put(f"{tenant_path}/incidents", json=body)
    if look == "late":
        assert (await sweep(1, s1="up"))["closed"] == []
        return
    found = await sweep(3, **({"s1": "up"} if look == "good" else {}))
    assert sorted(one["about"] for one in found["closed"]) == ["another", "health"]
    assert await opened() == [("", "clock_skew", "")]


async def test_of_few_servers_most_may_fail(sweep: Sweep) -> None:
    for minute in range(2):
        found = await sweep(minute, s1="down", s2="down", s3="down", s4="down")
    assert (found["prober"], len(found["opened"])) == ("ok", 4)


async def test_servers_in_maintenance_say_nothing_of_the_prober(
    api: Any, sweep: Sweep, tenant_path: str
) -> None:
    for number in range(1, 5):
        await api.patch(f"{tenant_path}/servers/s{number}", json={"status": "maintenance"})
    down = {f"s{number}": "down" for number in range(1, 5)}
    assert (await sweep(0, **down, s5="up", s6="up"))["prober"] == "ok"


async def test_a_late_sweep_that_failed_says_nothing_of_the_prober(
    sweep: Sweep, opened: Any
) -> None:
    everyone = [f"s{number}" for number in range(1, 7)]
    await sweep(1, **dict.fromkeys(everyone, "up"))
    assert (await sweep(0, **dict.fromkeys(everyone, "down")))["opened"] == []
    assert await opened() == []


# -- many


async def test_five_thousand_servers_are_swept_in_one_call(
    api: Any, acme: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "insert into servers (tenant, handle) "
        "select $1, 'm' || number from generate_series(1, 5000) number",
        acme,
    )
    for minute in (0, 1):
        checks = [
            {
                "handle": f"m{number}",
                "outcome": "down" if number <= 2000 else "up",
                "facts": {"load": 0.5, "uptime_seconds": 86400},
                "problems": [DISK] if number % 3 == 0 else [],
            }
            for number in range(1, 5001)
        ]
        at = (START + timedelta(minutes=minute)).isoformat()
        body = {"at": at, "checks": checks, "prober": "health"}
        answer = await api.put(f"/tenants/{acme}/servers/checks", "worker", json=body)
        assert answer.status_code == 200
    assert len(answer.json()["states"]) == 5000
    assert len(answer.json()["opened"]) == 2000
    assert await sql.fetchval("select count(*) from incidents where status <> 'resolved'") == 3666
    assert await sql.fetchval("select count(*) from servers where status = 'unreachable'") == 2000
    body["checks"] = [*checks, {"handle": "m5001", "outcome": "up"}]
    assert (await api.put(f"/tenants/{acme}/servers/checks", json=body)).status_code == 422


async def test_a_viewer_records_nothing(api: Any, tenant_path: str) -> None:
    body = {"at": START.isoformat(), "checks": [], "prober": "health"}
    answer = await api.put(f"{tenant_path}/servers/checks", "viewer", json=body)
    assert answer.status_code == 403
    nowhere = await api.put("/tenants/nobody/servers/checks", json=body)
    assert nowhere.status_code == 404
