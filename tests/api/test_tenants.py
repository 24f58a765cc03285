"""Tenants: created, renamed, suspended, resumed, deleted."""

import asyncio
from collections import Counter
from typing import Any

import asyncpg

from deployments.gateway import Gateway

TITLE = "Acme Corporation"


async def _audited(sql: asyncpg.Connection) -> list[tuple[str, str, str | None]]:
    """Takes the rows of the audit about tenants, each with who, what and which."""
    rows = await sql.fetch(
        "with gone as (delete from audit where kind = 'tenant' returning *) "
        "select * from gone order by id"
    )
    return [(row["who"], row["operation"], row["tenant"]) for row in rows]


async def test_a_tenant_is_created_and_read(api: Any, sql: asyncpg.Connection) -> None:
    created = await api.post("/tenants", json={"slug": "acme", "title": TITLE})
    assert created.status_code == 201
    assert created.headers["Location"] == "/api/v1/tenants/acme"
    assert created.json() == {
        "slug": "acme",
        "title": TITLE,
        "suspended": False,
        "suspended_reason": None,
        "suspended_at": None,
        "definitions": 0,
        "problems": 0,
    }
    assert (await api.get("/tenants/acme", "viewer")).json() == created.json()
    assert await _audited(sql) == [("admin", "insert", "acme")]


async def test_a_slug_that_is_taken_is_told(api: Any, acme: str, sql: asyncpg.Connection) -> None:
    await _audited(sql)
    answer = await api.post("/tenants", json={"slug": acme, "title": TITLE})
    assert answer.status_code == 409
    assert answer.json()["errors"] == [{"field": "slug", "detail": "it is taken"}]
    assert (await api.get(f"/tenants/{acme}")).json()["title"] is None
    assert await _audited(sql) == []


async def test_of_many_who_create_one_slug_at_once_one_does(
    api: Any, sql: asyncpg.Connection
) -> None:
    await api.token("admin")
    answers = await asyncio.gather(*(api.post("/tenants", json={"slug": "acme"}) for _ in range(5)))
    assert Counter(one.status_code for one in answers) == {201: 1, 409: 4}
    assert len(await _audited(sql)) == 1


async def test_what_is_no_slug_is_refused(api: Any) -> None:
    for slug in ("", "Acme", "a--b", "-a", "a_b", "a" * 64, "a/b", "\u00e4", "a\n", 1, None):
        answer = await api.post("/tenants", json={"slug": slug})
        assert answer.status_code == 422, slug
        assert [one["field"] for one in answer.json()["errors"]] == ["slug"]


async def test_a_tenant_gets_another_title_or_none(
    api: Any, acme: str, sql: asyncpg.Connection
) -> None:
    await _audited(sql)
    for title in (TITLE, None):
        answer = await api.put(f"/tenants/{acme}", f"admin@{acme}", json={"title": title})
        assert (answer.status_code, answer.json()["title"]) == (200, title)
    assert await _audited(sql) == [(f"admin@{acme}", "update", acme)] * 2
    long = await api.put(f"/tenants/{acme}", json={"title": "x" * 256})
    assert long.status_code == 422


async def test_a_tenant_that_is_not_there_is_told_by_every_route(api: Any) -> None:
    for method, path, body in (
        ("GET", "", None),
        ("PUT", "", {}),
        ("DELETE", "", None),
        ("POST", "/suspend", {}),
        ("POST", "/resume", None),
        ("GET", "/latest-runs", None),
    ):
        for slug in ("nobody", "No-Slug", "a%00b"):
            answer = await api.call(method, f"/tenants/{slug}{path}", json=body)
            assert answer.status_code == 404, f"{method} {slug}{path}"
            assert answer.json()["detail"].startswith("There is no tenant ")


async def test_a_tenant_that_has_definitions_is_not_deleted_and_one_without_is(
    api: Any, acme: str, definitions: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    await api.post(definitions, json=a_definition())
    refused = await api.delete(f"/tenants/{acme}")
    assert refused.status_code == 409
    assert "delete them first" in refused.json()["detail"]
    assert (await api.get(f"{definitions}/nightly")).status_code == 200
    await api.delete(f"{definitions}/nightly")
    await _audited(sql)
    assert (await api.delete(f"/tenants/{acme}")).status_code == 204
    assert (await api.get(f"/tenants/{acme}")).status_code == 404
    assert await _audited(sql) == [("admin", "delete", acme)]


async def test_a_definition_that_is_created_meanwhile_is_not_deleted_with_its_tenant(
    api: Any, acme: str, sql: asyncpg.Connection, blocked: Any
) -> None:
    await api.token("admin")
    async with sql.transaction():
        await sql.execute(
            "insert into definitions (tenant, name, duty) values ($1, 'late', 'workflow_run')", acme
        )
        deleting = asyncio.ensure_future(api.delete(f"/tenants/{acme}"))
        await blocked()
    assert (await deleting).status_code == 409
    assert (await api.get(f"/tenants/{acme}/definitions/late")).status_code == 200


async def test_how_many_definitions_and_problems_a_tenant_has_is_told(
    api: Any, acme: str, definitions: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    for name in ("a", "b", "c"):
        await api.post(definitions, json=a_definition(name))
    await sql.execute("update definitions set problem = 'duty: gone' where name = 'b'")
    found = (await api.get(f"/tenants/{acme}")).json()
    assert (found["definitions"], found["problems"]) == (3, 1)


# -- suspended


async def test_suspending_says_why_and_since_when_and_resuming_takes_it_back(
    api: Any, acme: str, sql: asyncpg.Connection
) -> None:
    await _audited(sql)
    since = await sql.fetchval("select clock_timestamp()")
    answer = await api.post(f"/tenants/{acme}/suspend", json={"reason": "Unpaid"})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["suspended"], found["suspended_reason"]) == (True, "Unpaid")
    assert found["suspended_at"].endswith("Z")
    row = await sql.fetchrow("select * from tenants where slug = $1", acme)
    assert row["suspended_at"] > since
    resumed = (await api.post(f"/tenants/{acme}/resume")).json()
    assert (resumed["suspended"], resumed["suspended_reason"]) == (False, None)
    assert resumed["suspended_at"] is None
    assert await _audited(sql) == [("admin", "update", acme)] * 2


async def test_suspending_and_resuming_twice_does_no_harm(api: Any, acme: str) -> None:
    for _ in range(2):
        answer = await api.post(f"/tenants/{acme}/suspend", json={"reason": "Unpaid"})
        assert answer.json()["suspended"] is True
    for _ in range(2):
        assert (await api.post(f"/tenants/{acme}/resume")).json()["suspended"] is False


async def test_a_reason_may_be_left_out_and_may_not_be_endless(api: Any, acme: str) -> None:
    assert (await api.post(f"/tenants/{acme}/suspend", json={})).status_code == 200
    for reason in ("x" * 1025, 1, ["x"]):
        answer = await api.post(f"/tenants/{acme}/suspend", json={"reason": reason})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "reason"


async def test_suspending_is_not_pausing(
    api: Any, acme: str, definitions: str, a_definition: Any
) -> None:
    await api.post(definitions, json=a_definition("running"))
    await api.post(definitions, json=a_definition("paused"))
    await api.post(f"{definitions}/paused/pause", json={"note": "Mine"})
    await api.post(f"/tenants/{acme}/suspend", json={})
    for name in ("running", "paused"):
        found = (await api.get(f"{definitions}/{name}")).json()
        assert (found["state"], found["enabled"]) == ("suspended", name == "running")
    await api.post(f"/tenants/{acme}/resume")
    states = {
        one["name"]: (one["state"], one["enabled"], one["pause_note"])
        for one in (await api.get(definitions)).json()["items"]
    }
    assert states == {"running": ("waiting", True, None), "paused": ("paused", False, "Mine")}


async def test_a_definition_of_a_suspended_tenant_can_be_written_and_waits(
    api: Any, acme: str, definitions: str, a_definition: Any, watch: Any, gateway: Gateway
) -> None:
    await api.post(f"/tenants/{acme}/suspend", json={})
    created = await api.post(definitions, json=a_definition(cron="* * * * *"))
    assert (created.status_code, created.json()["state"]) == (201, "suspended")
    assert (await api.patch(f"{definitions}/nightly", json={"title": "x"})).status_code == 200
    await watch.settle()
    [made] = await gateway.named([f"{acme}.nightly"])
    assert made["paused"] is True
    assert (await gateway.queues("rota"))[acme] is True
    await api.post(f"/tenants/{acme}/resume")
    await watch.settle()
    [made] = await gateway.named([f"{acme}.nightly"])
    assert made["paused"] is False
    assert (await gateway.queues("rota"))[acme] is False
    found = (await api.get(f"{definitions}/nightly")).json()
    assert found["state"] == "active"
    assert found["next_run_at"] is not None


async def test_a_suspend_waits_for_nothing_that_prefect_does(
    api: Any, acme: str, definitions: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    """It is a row and a note; the queue is stopped by whoever takes the note, before the rest."""
    await api.post(definitions, json=a_definition())
    await sql.execute("delete from changes")
    await api.post(f"/tenants/{acme}/suspend", json={})
    notes = await sql.fetch("select * from changes")
    assert [(one["tenant"], one["name"]) for one in notes if one["name"] is None] == [(acme, None)]
