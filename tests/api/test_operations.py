"""What concerns all tenants: the duties, the plan, applying it, the figures, the versions."""

import asyncio
from importlib.metadata import version
from typing import Any

import asyncpg
import pytest

from deployments.gateway import Gateway


async def test_the_duties_are_told_with_the_schema_of_their_parameters(api: Any) -> None:
    items = {one["name"]: one for one in (await api.get("/duties", "worker")).json()["items"]}
    assert list(items) == sorted(items)
    duty = items["workflow_run"]
    assert duty["description"].startswith("Start a workflow in the workflow service.")
    assert duty["problem"] is None
    assert duty["parameters"]["required"] == ["workflow_id"]
    assert duty["parameters"]["properties"]["deadline_seconds"]["default"] == 300


async def test_a_duty_that_does_not_load_is_told_with_its_reason(api: Any) -> None:
    api.app.state.rota.broken["probes"] = "probes:check does not load: ImportError"
    items = {one["name"]: one for one in (await api.get("/duties")).json()["items"]}
    assert items["probes"] == {
        "name": "probes",
        "description": None,
        "parameters": None,
        "problem": "probes:check does not load: ImportError",
    }


async def test_the_plan_says_what_an_apply_would_do_and_does_nothing(
    api: Any, acme: str, definitions: str, a_definition: Any, watch: Any, gateway: Gateway
) -> None:
    for name in ("same", "changed", "gone"):
        await api.post(definitions, json=a_definition(name))
    await watch.settle()
    parameters = {"workflow_id": "x", "input": {"api_token": "swordfish"}}
    await api.patch(f"{definitions}/changed", json={"parameters": parameters})
    await api.delete(f"{definitions}/gone")
    await api.post(definitions, json=a_definition("new"))
    for _ in range(2):
        answer = await api.get("/plan", "viewer")
        said = answer.json()
        assert said["create"] == [f"{acme}/new"]
        assert said["delete"] == [f"{acme}/gone"]
        assert (said["unchanged"], said["problems"]) == (1, {})
        [update] = said["update"]
        assert update["definition"] == f"{acme}/changed"
        [difference] = update["differences"]
        assert difference["field"] == "parameters"
        assert difference["from"] == {"workflow_id": "changed"}
        assert "swordfish" not in answer.text
    assert await gateway.named([f"{acme}.new"]) == []


@pytest.mark.parametrize(
    ("policy", "done"),
    [
        ("create-only", {"new"}),
        ("upsert-only", {"new", "changed"}),
        ("sync", {"new", "changed", "gone"}),
    ],
)
async def test_an_apply_does_what_its_policy_lets_it(
    api: Any,
    acme: str,
    definitions: str,
    a_definition: Any,
    watch: Any,
    gateway: Gateway,
    policy: str,
    done: set[str],
) -> None:
    for name in ("changed", "gone"):
        await api.post(definitions, json=a_definition(name))
    await watch.settle()
    await api.patch(f"{definitions}/changed", json={"cron": "1 1 * * *"})
    await api.delete(f"{definitions}/gone")
    await api.post(definitions, json=a_definition("new"))
    answer = await api.post("/apply", json={"policy": policy})
    assert answer.status_code == 200
    said = answer.json()
    assert said["failed"] == {}
    assert bool(said["create"]) == ("new" in done)
    assert bool(said["update"]) == ("changed" in done)
    assert bool(said["delete"]) == ("gone" in done)
    assert bool(await gateway.named([f"{acme}.new"])) == ("new" in done)
    assert bool(await gateway.named([f"{acme}.gone"])) == ("gone" not in done)
    [changed] = await gateway.named([f"{acme}.changed"])
    cron = changed["schedules"][0]["schedule"]["cron"]
    assert cron == ("1 1 * * *" if "changed" in done else "0 3 * * *")


async def test_an_apply_without_a_body_does_everything(
    api: Any, acme: str, definitions: str, a_definition: Any, watch: Any, gateway: Gateway
) -> None:
    await api.post(definitions, json=a_definition())
    assert (await api.post("/apply")).json()["create"] == [f"{acme}/nightly"]
    assert len(await gateway.named([f"{acme}.nightly"])) == 1
    again = (await api.post("/apply")).json()
    assert (again["create"], again["update"], again["unchanged"]) == ([], [], 1)


async def test_an_apply_tells_what_cannot_be_carried_out(
    api: Any, acme: str, definitions: str, a_definition: Any, watch: Any, sql: asyncpg.Connection
) -> None:
    await api.post(definitions, json=a_definition("good"))
    await sql.execute(
        "insert into definitions (tenant, name, duty) values ($1, 'bad', 'nothing')", acme
    )
    said = (await api.post("/apply", json={})).json()
    assert said["create"] == [f"{acme}/good"]
    assert list(said["problems"]) == [f"{acme}/bad"]
    assert said["problems"][f"{acme}/bad"].startswith("duty: no duty is named 'nothing'")
    found = (await api.get(f"{definitions}/bad")).json()
    assert (found["state"], found["problem"]) == ("problem", said["problems"][f"{acme}/bad"])


async def test_one_apply_at_a_time(api: Any, sql: asyncpg.Connection, watch: Any) -> None:
    await api.token("admin")
    async with sql.transaction():
        await sql.execute("lock table definitions in access exclusive mode")
        first = asyncio.ensure_future(api.post("/apply", json={}))
        while not api.app.state.rota.applying.locked():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            second = await api.post("/apply", json={})
        assert second.status_code == 409
    assert (await first).status_code == 200
    assert (await api.post("/apply", json={})).status_code == 200


async def test_a_policy_that_there_is_not_is_refused(api: Any) -> None:
    answer = await api.post("/apply", json={"policy": "everything"})
    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["errors"]] == ["policy"]


async def test_the_figures_say_what_waits_for_prefect(
    api: Any, definitions: str, a_definition: Any, watch: Any
) -> None:
    await watch.settle()
    before = (await api.get("/stats", "viewer")).json()
    await api.post(definitions, json=a_definition())
    said = (await api.get("/stats", "viewer")).json()
    assert (said["definitions"], said["waiting"]) == (1, before["waiting"] + 1)
    assert said["states"]["waiting"] == 1
    await watch.settle()
    said = (await api.get("/stats", "viewer")).json()
    assert (said["waiting"], said["states"]["active"]) == (0, 1)


async def test_the_versions_are_told_without_a_token(api: Any, sql: asyncpg.Connection) -> None:
    assert (await api.get("/version", None)).json() == {
        "version": version("rota"),
        "prefect": version("prefect"),
        "revision": await sql.fetchval("select version_num from alembic_version"),
    }
