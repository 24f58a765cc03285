"""Servers: as a provider lists them, what goes missing, and the changes of their status."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

PROVIDER = "time4vps"


def item(number: int, **fields: Any) -> dict[str, Any]:
    """Returns a managed server as its provider lists it."""
    return {
        "provider_id": str(number),
        "public_ip": f"203.0.113.{number}",
        "managed": True,
        **fields,
    }


@pytest.fixture
def servers(acme: str) -> str:
    """The path of the tenant's servers."""
    return f"/tenants/{acme}/servers"


@pytest.fixture
def put(api: Any, servers: str) -> Callable[..., Awaitable[Any]]:
    """Gives what writes a list, and returns the answer; a 200 as what became of each server."""

    async def write(*items: dict[str, Any], **fields: Any) -> Any:
        body = {"provider": PROVIDER, "servers": list(items), **fields}
        answer = await api.put(servers, "worker", json=body)
        if answer.is_error:
            return answer
        return {name: handles for name, handles in answer.json().items() if handles}

    return write


@pytest.fixture
def statuses(api: Any, servers: str) -> Callable[..., Awaitable[dict[str, str]]]:
    """Gives what returns the status of each server, by its handle."""

    async def read(**params: Any) -> dict[str, str]:
        found = await api.get(servers, "viewer", params=params)
        return {one["handle"]: one["status"] for one in found.json()["items"]}

    return read


@pytest.fixture
def told(api: Any, acme: str) -> Callable[..., Awaitable[list[tuple[str, str]]]]:
    """Gives what claims notices, and returns the kind and the severity of each."""

    async def claim() -> list[tuple[str, str]]:
        found = await api.post(f"/tenants/{acme}/notices/claim", "worker", json={})
        return [(one["kind"], one["severity"]) for one in found.json()["notices"]]

    return claim


# -- a provider's list


async def test_a_new_server_is_set_up_if_it_is_managed_and_else_reserved(
    api: Any, servers: str, put: Any, statuses: Any
) -> None:
    assert await put(item(1), item(2, managed=False), item(3, handle="web-3")) == {
        "created": ["vps-1", "vps-2", "web-3"]
    }
    assert await statuses() == {
        "vps-1": "pending_setup",
        "vps-2": "reserved",
        "web-3": "pending_setup",
    }
    found = (await api.get(f"{servers}/vps-1", "worker")).json()
    assert found["provider_id"] == "1"
    assert (found["ssh_user"], found["ssh_port"]) == ("root", 22)
    assert found["health"]["state"] == "unknown"
    assert found["last_seen_at"]


async def test_the_second_time_nothing_has_changed(
    api: Any, servers: str, put: Any, sql: asyncpg.Connection
) -> None:
    full = item(
        1,
        host="web-1.example.com",
        addresses=["203.0.113.1", "2001:db8::1"],
        capacity_cpu=4,
        capacity_ram_mb=8192,
        capacity_disk_mb=81920,
        used_ram_mb=0,
        used_disk_mb=1,
        os_template="kvm-debian-12",
        provider_status="Active",
    )
    await put(full)
    before = (await api.get(f"{servers}/vps-1")).json()
    assert {name: before[name] for name in full} == full
    assert await put(full, complete=True) == {"unchanged": ["vps-1"]}
    after = (await api.get(f"{servers}/vps-1")).json()
    assert after.pop("last_seen_at") > before.pop("last_seen_at")
    assert after == before
    assert await sql.fetchval("select count(*) from server_changes") == 1


async def test_what_is_given_is_written_and_what_is_left_out_stays(
    api: Any, servers: str, put: Any
) -> None:
    await put(item(1, host="a.example.com", capacity_cpu=2, used_ram_mb=100))
    again = {"provider_id": "1", "used_ram_mb": 200, "host": None}
    assert await put(again) == {"updated": ["vps-1"]}
    found = (await api.get(f"{servers}/vps-1")).json()
    assert (found["used_ram_mb"], found["host"], found["capacity_cpu"]) == (200, None, 2)
    assert (found["public_ip"], found["managed"]) == ("203.0.113.1", True)


async def test_a_server_with_another_id_at_the_same_address_is_the_same(
    api: Any, servers: str, put: Any
) -> None:
    await put(item(1), item(2))
    moved = item(9, public_ip="203.0.113.1")
    assert await put(moved, item(2), complete=True) == {
        "updated": ["vps-1"],
        "unchanged": ["vps-2"],
    }
    assert (await api.get(f"{servers}/vps-1")).json()["provider_id"] == "9"


async def test_an_id_counts_for_more_than_an_address(api: Any, servers: str, put: Any) -> None:
    await put(item(1), item(2))
    swapped = [item(1, public_ip="203.0.113.2"), item(2, public_ip="203.0.113.1")]
    assert await put(*swapped, complete=True) == {"updated": ["vps-1", "vps-2"]}
    assert (await api.get(f"{servers}/vps-1")).json()["public_ip"] == "203.0.113.2"


async def test_a_handle_that_is_taken_gets_a_number_unless_it_was_asked_for(put: Any) -> None:
    assert await put(item(7), provider="another") == {"created": ["vps-7"]}
    assert await put(item(7)) == {"created": ["vps-7-2"]}
    answer = await put(item(8), item(9, handle="vps-7"))
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"field": "servers.1.handle", "detail": "'vps-7' is another server's"}
    ]
    strange = {"provider_id": "A_b/C " + "x" * 150}
    assert await put(strange, item(8)) == {"created": ["vps-a-b-c-" + "x" * 47, "vps-8"]}


async def test_one_item_that_does_not_fit_refuses_all_of_them(put: Any, statuses: Any) -> None:
    for bad, field in (
        (item(2, public_ip="203.0.113.999"), "public_ip"),
        (item(2, public_ip="fe80::1%eth0"), "public_ip"),
        (item(2, capacity_cpu=-1), "capacity_cpu"),
        (item(2, host="-oProxyCommand=x"), "host"),
        (item(2, host="a b"), "host"),
        (item(2, colour="red"), "colour"),
        (item(2, provider_id=""), "provider_id"),
        (item(2, provider_id=2), "provider_id"),
        (item(2, managed=None), "managed"),
        (item(2, os_template="a\0b"), "os_template"),
        (item(1), "provider_id"),
        ({"public_ip": "203.0.113.2"}, "provider_id"),
    ):
        answer = await put(item(1), bad)
        assert answer.status_code == 422, bad
        assert [one["field"] for one in answer.json()["errors"]] == [f"servers.1.{field}"]
    assert await statuses() == {}


async def test_five_thousand_servers_are_written_at_once_and_no_more(put: Any) -> None:
    many = [{"provider_id": str(number)} for number in range(5001)]
    assert len((await put(*many[1:]))["created"]) == 5000
    assert len((await put(*many[1:], complete=True))["unchanged"]) == 5000
    assert (await put(*many)).status_code == 422


async def test_the_tables_of_two_tenants_do_not_touch(api: Any, acme: str, put: Any) -> None:
    await api.post("/tenants", json={"slug": "other"})
    await put(item(1))
    answer = await api.put(
        "/tenants/other/servers", json={"provider": PROVIDER, "servers": [item(1)]}
    )
    assert answer.json()["created"] == ["vps-1"]
    body = {"provider": PROVIDER, "servers": [], "complete": True}
    assert (await api.put("/tenants/other/servers", json=body)).json()["gone"] == ["vps-1"]
    assert (await api.get(f"/tenants/{acme}/servers/vps-1")).json()["status"] == "pending_setup"


# -- missing, and back


async def test_what_is_no_longer_listed_is_missing_and_told_of_once(
    put: Any, statuses: Any, told: Any
) -> None:
    await put(item(1), item(2), item(3))
    await put(item(4), provider="another")
    await told()
    assert await put(item(1), complete=False) == {"unchanged": ["vps-1"]}
    assert await put(item(1), complete=True) == {"unchanged": ["vps-1"], "gone": ["vps-2", "vps-3"]}
    assert await put(item(1), complete=True) == {"unchanged": ["vps-1"]}
    assert (await statuses())["vps-2"] == "missing"
    assert (await statuses())["vps-4"] == "pending_setup"
    assert await told() == [("server_missing", "warning")]


async def test_the_same_sweep_sent_again_says_the_same(put: Any, told: Any) -> None:
    await put(item(1))
    await told()
    for _ in range(2):
        assert await put(complete=True, cycle="monday") == {"gone": ["vps-1"]}
    assert await put(complete=True, cycle="tuesday") == {}
    assert await told() == [("server_missing", "warning")]


async def test_a_managed_server_at_an_address_that_is_in_use_is_not_set_up(
    api: Any, servers: str, put: Any, statuses: Any
) -> None:
    await api.post(servers, json={"handle": "web-1", "public_ip": "203.0.113.1"})
    await put(item(2, addresses=["203.0.113.9"]), provider="another")
    found = [item(1), item(2), item(9), item(3), item(4, public_ip="203.0.113.3")]
    await put(*found, {"provider_id": "5", "managed": True})
    assert await statuses(provider=PROVIDER) == {
        "vps-1": "active",
        "vps-2-2": "active",
        "vps-3": "pending_setup",
        "vps-4": "active",
        "vps-5": "pending_setup",
        "vps-9": "active",
    }


async def test_an_address_that_a_server_has_left_is_free_for_a_new_one(
    put: Any, statuses: Any
) -> None:
    await put(item(1))
    await put(item(2, public_ip="203.0.113.1"), item(1, public_ip="203.0.113.7"))
    assert await statuses() == {"vps-1": "pending_setup", "vps-2": "pending_setup"}


async def test_an_address_of_a_server_that_is_gone_makes_a_new_one(
    api: Any, servers: str, put: Any, statuses: Any
) -> None:
    await put(item(1), item(2))
    await api.patch(f"{servers}/vps-2", json={"status": "decommissioned"})
    await put(complete=True)
    again = [item(8, public_ip="203.0.113.1"), item(9, public_ip="203.0.113.2")]
    assert await put(*again) == {"created": ["vps-8", "vps-9"]}
    assert await statuses() == {
        "vps-1": "missing",
        "vps-2": "decommissioned",
        "vps-8": "pending_setup",
        "vps-9": "pending_setup",
    }


async def test_what_was_to_be_set_up_when_it_went_missing_is_so_when_it_is_back(
    api: Any, servers: str, put: Any, statuses: Any
) -> None:
    await put(item(1), item(2), item(3), item(4))
    await api.patch(f"{servers}/vps-2", json={"status": "in_use"})
    await put(complete=True)
    await api.post(servers, json={"handle": "web-3", "public_ip": "203.0.113.3"})
    await put(item(1), item(2), item(3), item(4, managed=False))
    back = {"vps-1": "pending_setup", "vps-2": "active", "vps-3": "active", "vps-4": "reserved"}
    assert await statuses(provider=PROVIDER) == back
    await api.patch(f"{servers}/vps-1", json={"status": "in_use"})
    await put(complete=True)
    await put(item(1))
    assert (await statuses())["vps-1"] == "active"


async def test_what_is_back_is_active_or_reserved_and_never_set_up_anew(
    api: Any, servers: str, put: Any, statuses: Any, told: Any
) -> None:
    await put(item(1), item(2, managed=False))
    await api.patch(f"{servers}/vps-1", json={"status": "in_use"})
    await put(complete=True)
    await told()
    assert await put(item(1), item(2)) == {
        "updated": ["vps-1", "vps-2"],
        "returned": ["vps-1", "vps-2"],
    }
    assert await statuses() == {"vps-1": "active", "vps-2": "active"}
    assert await told() == [("server_returned", "info")]
    await put(complete=True)
    await put(item(2, managed=False))
    assert (await statuses())["vps-2"] == "reserved"


async def test_what_is_decommissioned_stays_so(
    api: Any, servers: str, put: Any, statuses: Any
) -> None:
    await put(item(1))
    await api.patch(f"{servers}/vps-1", json={"status": "decommissioned"})
    await put(complete=True)
    await put(item(1, managed=False))
    await put(item(1))
    assert await statuses() == {"vps-1": "decommissioned"}


async def test_what_is_no_longer_managed_is_reserved_and_not_set_up(
    api: Any, servers: str, acme: str, put: Any, told: Any
) -> None:
    await put(item(1), item(2), item(3))
    await told()
    assert len((await api.post(f"{servers}/provisioning", json={})).json()["requests"]) == 3
    assert await put(item(1, managed=False)) == {"updated": ["vps-1"], "demoted": ["vps-1"]}
    found = (await api.get(f"{servers}/vps-1")).json()
    assert (found["status"], found["provisioning_request"]) == ("reserved", None)
    assert await told() == [("server_demoted", "warning")]
    await put(item(2, managed=False), item(3, managed=False))
    assert await told() == [("server_demoted", "critical")]


async def test_what_is_managed_from_now_on_is_active(put: Any, statuses: Any) -> None:
    await put(item(1, managed=False))
    assert await put(item(1)) == {"updated": ["vps-1"]}
    assert await statuses() == {"vps-1": "active"}


async def test_more_than_half_of_the_servers_do_not_go_at_once(
    put: Any, statuses: Any, told: Any
) -> None:
    await put(*(item(number) for number in range(1, 11)))
    await told()
    answer = await put(*(item(number) for number in range(1, 5)), item(99), complete=True)
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith("mass-change: 6 of 10 servers of time4vps")
    assert [one["field"] for one in answer.json()["errors"]] == ["allow_mass_change"]
    assert set((await statuses()).values()) == {"pending_setup"}
    assert "vps-99" not in await statuses()
    assert await told() == []
    assert (await put(complete=True)).status_code == 409
    done = await put(complete=True, allow_mass_change=True)
    assert len(done["gone"]) == 10


async def test_more_than_half_of_the_managed_ones_are_not_demoted_at_once(
    put: Any, statuses: Any, told: Any
) -> None:
    nine = [item(number) for number in range(1, 10)]
    others = [item(number, managed=False) for number in range(11, 20)]
    await put(*nine, *others)
    await told()
    demoted = [{**one, "managed": False} for one in nine]
    answer = await put(*demoted[:5])
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith(
        "mass-change: 5 of 9 servers of time4vps would no longer be managed"
    )
    assert (await statuses())["vps-1"] == "pending_setup"
    assert await told() == []
    assert len((await put(*demoted[:4]))["demoted"]) == 4
    assert len((await put(*demoted, allow_mass_change=True))["demoted"]) == 5


async def test_half_of_them_may_go_and_so_may_all_of_a_few(put: Any) -> None:
    ten = [item(number) for number in range(1, 11)]
    await put(*ten)
    assert len((await put(*ten[:5], complete=True))["gone"]) == 5
    four = [item(number) for number in range(1, 5)]
    await put(*four, provider="another")
    assert len((await put(complete=True, provider="another"))["gone"]) == 4


EARLIER, LATER = "2026-03-01T08:00:00Z", "2026-03-01T08:00:00.000001Z"


async def test_a_list_that_comes_after_a_later_one_is_refused_and_marks_nothing(
    put: Any, statuses: Any, told: Any
) -> None:
    await put(item(7), item(8), complete=True, listed_at=LATER)
    await told()

    answer = await put(item(7), item(9), complete=True, listed_at=EARLIER)

    assert answer.status_code == 409
    [fault] = answer.json()["errors"]
    assert fault["field"] == "listed_at"
    for part in ("2026-03-01T08:00:00+00:00", "2026-03-01T08:00:00.000001+00:00", "clocks"):
        assert part in fault["detail"]
    assert await statuses() == {"vps-7": "pending_setup", "vps-8": "pending_setup"}
    assert await told() == []


async def test_lists_in_the_order_in_which_they_were_asked_for_are_written(
    put: Any, statuses: Any
) -> None:
    await put(item(7), complete=True, listed_at=EARLIER)
    await put(item(7), item(8), complete=True, listed_at=LATER)

    # The same list in another batch, or sent again; and one of which nobody says when it was made.
    assert await put(item(7), item(8), listed_at=LATER) == {"unchanged": ["vps-7", "vps-8"]}
    assert await put(item(7)) == {"unchanged": ["vps-7"]}
    assert (await put(item(7), listed_at=EARLIER)).status_code == 409
    assert await statuses() == {"vps-7": "pending_setup", "vps-8": "pending_setup"}


async def test_a_later_list_of_another_provider_or_tenant_or_that_was_held_back_hinders_none(
    api: Any, acme: str, put: Any
) -> None:
    await put(*(item(number) for number in range(1, 7)), listed_at=EARLIER)
    await put(item(7), provider="elsewhere", listed_at=LATER)
    await api.post("/tenants", "admin", json={"slug": f"{acme}-2"})
    body = {"provider": PROVIDER, "servers": [], "listed_at": LATER}
    await api.put(f"/tenants/{acme}-2/servers", "worker", json=body)
    held_back = await put(complete=True, listed_at=LATER)

    assert [one["field"] for one in held_back.json()["errors"]] == ["allow_mass_change"]
    assert "unchanged" in await put(item(1), listed_at=EARLIER)


async def test_a_list_cannot_have_been_asked_for_hours_from_now(put: Any) -> None:
    now = datetime.now(UTC)

    ahead = await put(item(7), listed_at=(now + timedelta(hours=2)).isoformat())
    a_little = await put(item(7), listed_at=(now + timedelta(minutes=30)).isoformat())
    # A clock that is a little ahead keeps nobody else from writing.
    right = await put(item(7), listed_at=datetime.now(UTC).isoformat())

    assert ahead.status_code == 422
    assert "listed_at: " in ahead.json()["detail"]
    assert (a_little, right) == ({"created": ["vps-7"]}, {"unchanged": ["vps-7"]})


async def test_lists_sent_at_once_leave_what_the_latest_says(put: Any, statuses: Any) -> None:
    at = [f"2026-03-01T08:00:0{second}Z" for second in range(8)]

    await asyncio.gather(
        *(put(item(n), complete=True, listed_at=at[n]) for n in (3, 7, 1, 5, 2, 6, 4, 0))
    )

    found = await statuses()
    assert [handle for handle, status in found.items() if status != "missing"] == ["vps-7"]


async def test_sweeps_at_once_count_nothing_twice(
    api: Any, put: Any, told: Any, sql: asyncpg.Connection
) -> None:
    await api.token("worker")
    found = await asyncio.gather(*(put(item(1), item(2), complete=True) for _ in range(8)))
    assert sum("created" in one for one in found) == 1
    found = await asyncio.gather(*(put(item(1), complete=True) for _ in range(8)))
    assert sum("gone" in one for one in found) == 1
    assert sorted(await told()) == [("server_missing", "warning"), ("server_new", "info")]
    rows = await sql.fetch("select handle, after from server_changes order by id")
    assert [tuple(row) for row in rows] == [
        ("vps-1", "pending_setup"),
        ("vps-2", "pending_setup"),
        ("vps-2", "missing"),
    ]


# -- one server


async def test_a_server_is_made_by_hand(api: Any, servers: str) -> None:
    body = {"handle": "web-1", "host": "web-1.example.com", "labels": {"role": "web"}}
    made = await api.post(servers, "editor", json=body)
    assert made.status_code == 201
    assert made.headers["Location"] == f"/api/v1{servers}/web-1"
    found = made.json()
    assert (found["provider"], found["managed"], found["status"]) == ("manual", True, "active")
    assert (await api.get(f"{servers}/web-1")).json() == found
    again = await api.post(servers, json=body)
    assert again.status_code == 409
    assert again.json()["errors"] == [{"field": "handle", "detail": "it is taken"}]


async def test_a_server_is_changed_in_what_is_named(api: Any, servers: str) -> None:
    before = (await api.post(servers, json={"handle": "web-1", "notes": "Old"})).json()
    said = {
        "status": "maintenance",
        "labels": {"role": "web"},
        "ssh_user": "ops",
        "ssh_port": 2222,
        "managed": False,
        "maintenance_from": "2026-03-01T07:00:00Z",
        "maintenance_until": "2026-03-01T09:00:00Z",
        "public_ip": "2001:db8::7",
        "host": "web-1.example.com",
    }
    after = (await api.patch(f"{servers}/web-1", "editor", json=said)).json()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == said.keys() | {"updated_at"}
    assert {name: after[name] for name in said} == said
    assert (await api.patch(f"{servers}/web-1", json={})).json() == after
    emptied = (await api.patch(f"{servers}/web-1", json={"notes": None, "host": None})).json()
    assert (emptied["notes"], emptied["host"]) == (None, None)


@pytest.mark.parametrize(
    "body",
    [
        {"status": "asleep"},
        {"status": None},
        {"ssh_port": 0},
        {"ssh_user": "-oProxyCommand=x"},
        {"labels": {"role": 1}},
        {"labels": {"": "x"}},
        {"labels": None},
        {"handle": "web-2"},
        {"maintenance_from": "2026-03-01T07:00:00"},
        {"maintenance_from": "2026-03-01T07:00:00Z", "maintenance_until": "2026-03-01T07:00:00Z"},
        {"health": {}},
    ],
)
async def test_what_does_not_fit_a_server_is_refused(
    api: Any, servers: str, body: dict[str, Any]
) -> None:
    await api.post(servers, json={"handle": "web-1"})
    answer = await api.patch(f"{servers}/web-1", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"]


async def test_a_server_that_is_not_there_is_told(api: Any, servers: str, acme: str) -> None:
    for path in (f"{servers}/web-1", f"{servers}/Web_1", f"{servers}/a%00b"):
        for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
            answer = await api.call(method, path, json=body)
            assert answer.status_code == 404, path
    assert (await api.get(f"{servers}/web-1/changes")).status_code == 404
    nowhere = servers.replace(acme, "nobody")
    body = {"provider": PROVIDER, "servers": []}
    assert (await api.put(nowhere, json=body)).status_code == 404
    assert (await api.get(nowhere)).status_code == 404
    assert (await api.post(nowhere, json={"handle": "web-1"})).status_code == 404
    assert (await api.patch(f"{nowhere}/web-1", json={})).status_code == 404


async def test_a_server_that_its_provider_lists_is_deleted_only_when_it_is_out_of_service(
    api: Any, servers: str, put: Any
) -> None:
    await put(item(1), item(2, managed=False), item(3))
    answer = await api.delete(f"{servers}/vps-1")
    assert answer.status_code == 409
    assert answer.json()["detail"].endswith("decommissioned; its provider lists it.")
    await api.patch(f"{servers}/vps-1", json={"status": "decommissioned"})
    await put(item(1), item(2, managed=False), complete=True)
    for number in (1, 2, 3):
        assert (await api.delete(f"{servers}/vps-{number}")).status_code == 204


async def test_what_is_wrong_with_a_server_is_over_when_nobody_checks_it_any_more(
    api: Any, servers: str, acme: str, put: Any, told: Any
) -> None:
    await put(*(item(number) for number in range(1, 7)))
    problems = [
        {"server": f"vps-{number}", "kind": kind, "title": "Wrong"}
        for number in range(1, 7)
        for kind in ("clock_skew", "service_down")
    ]
    body = {"at": "2026-03-01T07:00:00Z", "open": problems}
    await api.put(f"/tenants/{acme}/incidents", json=body)
    await told()
    over = [("incident_closed", "info")] * 2

    async def left() -> set[str]:
        params = {"open": True}
        found = (await api.get(f"/tenants/{acme}/incidents", params=params)).json()["items"]
        return {one["server"][4:] for one in found}

    await put(*(item(number) for number in range(2, 7)), complete=True)
    assert (await left(), sorted(await told())[:2]) == (set("23456"), over)
    await put(item(2, managed=False))
    assert (await left(), sorted(await told())[:2]) == (set("3456"), over)
    await api.patch(f"{servers}/vps-3", json={"status": "decommissioned"})
    assert (await left(), await told()) == (set("456"), over)
    await api.patch(f"{servers}/vps-4", json={"managed": False})
    assert (await left(), await told()) == (set("56"), over)
    await api.patch(f"{servers}/vps-5", json={"status": "maintenance"})
    assert (await left(), await told()) == (set("56"), [])


async def test_a_deleted_server_is_gone_with_its_incidents(
    api: Any, servers: str, acme: str, told: Any, sql: asyncpg.Connection
) -> None:
    await api.post(servers, json={"handle": "web-1"})
    opened = {"server": "web-1", "kind": "clock_skew", "title": "Late"}
    body = {"at": "2026-03-01T07:00:00Z", "open": [opened]}
    assert (await api.put(f"/tenants/{acme}/incidents", json=body)).status_code == 200
    assert (await api.delete(f"{servers}/web-1")).status_code == 204
    assert (await api.delete(f"{servers}/web-1")).status_code == 404
    assert await sql.fetchval("select count(*) from incidents") == 0
    assert [kind for kind, _ in await told()] == ["incident_opened", "incident_closed"]
    rows = await sql.fetch("select before, after from server_changes order by id")
    assert [tuple(row) for row in rows] == [(None, "active"), ("active", None)]


async def test_a_tenant_may_go_with_all_its_servers(
    api: Any, servers: str, acme: str, put: Any
) -> None:
    await put(item(1))
    assert (await api.delete(f"/tenants/{acme}")).status_code == 204


# -- changes of the status


async def test_every_change_of_a_status_is_kept_with_who_and_when(
    api: Any, servers: str, put: Any, sql: asyncpg.Connection
) -> None:
    await put(item(1))
    await api.patch(f"{servers}/vps-1", "editor", json={"status": "in_use"})
    await api.patch(f"{servers}/vps-1", "editor", json={"notes": "Nothing of the status"})
    await sql.execute("update servers set status = 'maintenance' where handle = 'vps-1'")
    found = (await api.get(f"{servers}/vps-1/changes", "viewer")).json()["items"]
    user = await sql.fetchval("select session_user")
    assert [(one["who"], one["before"], one["after"]) for one in found] == [
        (user, "in_use", "maintenance"),
        ("editor", "pending_setup", "in_use"),
        ("worker", None, "pending_setup"),
    ]
    assert found == sorted(found, key=lambda one: str(one["at"]), reverse=True)
    first = (await api.get(f"{servers}/vps-1/changes", params={"limit": 1})).json()
    second = (await api.get(first["next"])).json()
    assert [first["items"], second["items"]] == [found[:1], found[1:2]]
    assert (await api.get(second["previous"])).json()["items"] == found[:1]


async def test_a_server_cannot_become_another(
    api: Any, servers: str, sql: asyncpg.Connection
) -> None:
    await api.post(servers, json={"handle": "web-1"})
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="cannot become"):
        await sql.execute("update servers set handle = 'web-2'")


# -- lists


async def test_servers_are_listed_by_what_they_are(api: Any, servers: str, statuses: Any) -> None:
    for handle, fields in {
        "web-1": {"status": "ready", "host": "shop.example.com"},
        "web-2": {"status": "in_use", "public_ip": "203.0.113.7"},
        "db-1": {"status": "error", "managed": False},
    }.items():
        await api.post(servers, json={"handle": handle, **fields})
    for params, expected in (
        ({}, ["db-1", "web-1", "web-2"]),
        ({"status": "ready"}, ["web-1"]),
        ({"status": ["ready", "in_use"]}, ["web-1", "web-2"]),
        ({"managed": True}, ["web-1", "web-2"]),
        ({"provider": "manual", "managed": False}, ["db-1"]),
        ({"provider": "other"}, []),
        ({"q": "WEB"}, ["web-1", "web-2"]),
        ({"q": "shop.ex"}, ["web-1"]),
        ({"q": "113.7"}, ["web-2"]),
        ({"q": "100%"}, []),
        ({"q": "a\0b"}, []),
    ):
        for paging in ({}, {"limit": 10}):
            assert list(await statuses(**params, **paging)) == expected, params
    answer = await api.get(servers, params={"status": "asleep"})
    assert answer.status_code == 422
    page = (await api.get(servers, params={"page": 2, "page_size": 2})).json()
    assert ([one["handle"] for one in page["items"]], page["total"]) == (["web-2"], 3)


# -- who may


async def test_a_viewer_reads_and_a_worker_writes(api: Any, servers: str, put: Any) -> None:
    await put(item(1))
    for who in ("viewer", "worker", "editor"):
        assert (await api.get(f"{servers}/vps-1", who)).status_code == 200
    body = {"provider": PROVIDER, "servers": []}
    assert (await api.put(servers, "viewer", json=body)).status_code == 403
    assert (await api.patch(f"{servers}/vps-1", "viewer", json={})).status_code == 403
