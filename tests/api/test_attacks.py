"""What somebody tried who meant the API no good, or had bad luck with it."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from api.access import ABOUT_ALL
from store import database


@pytest.mark.parametrize("duty", sorted(ABOUT_ALL))
async def test_a_duty_about_all_tenants_takes_an_administrator_of_all(
    api: Any, acme: str, definitions: str, a_definition: Any, duty: str
) -> None:
    wanted = {**a_definition(), "duty": duty, "parameters": {"dry_run": True}}
    for who in ("editor", f"editor@{acme}", f"admin@{acme}"):
        answer = await api.post(definitions, who, json=wanted)
        assert answer.status_code == 403
        assert answer.json()["errors"][0]["field"] == "duty"
    assert (await api.post(definitions, json=wanted)).status_code == 201


async def test_harmless_variables_have_harmless_values(
    api: Any, definitions: str, a_definition: Any
) -> None:
    for value in ("{{ prefect.blocks.secret.x }}", ["process"], {"a": 1}):
        wanted = {**a_definition(), "job_variables": {"isolation": value}}
        assert (await api.post(definitions, "editor", json=wanted)).status_code == 403


async def test_a_date_that_has_come_is_no_reason_to_refuse_other_changes(
    api: Any, definitions: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    ahead = datetime.now(UTC) + timedelta(seconds=1)
    once = {**a_definition(), "cron": None, "run_at": ahead.isoformat()}
    assert (await api.post(definitions, json=once)).status_code == 201
    await sql.execute("update definitions set last_run_at = $1", ahead + timedelta(seconds=1))
    while datetime.now(UTC) <= ahead:  # noqa: ASYNC110 - the clock has no event
        await asyncio.sleep(0.05)
    path = f"{definitions}/nightly"
    assert (await api.patch(path, json={"title": "renamed"})).status_code == 200
    put = await api.put(definitions, json={"definitions": [{**once, "title": "again"}]})
    assert put.json()["updated"] == ["nightly"]


async def test_a_pause_until_an_instant_ends_one_without_and_the_other_way_round(
    api: Any, definitions: str, a_definition: Any
) -> None:
    await api.post(definitions, json=a_definition())
    path, until = f"{definitions}/nightly/pause", "2031-03-01T07:00:00Z"
    await api.post(path)
    found = (await api.post(path, json={"until": until})).json()
    assert (found["enabled"], found["paused_until"], found["state"]) == (True, until, "paused")
    found = (await api.post(path)).json()
    assert (found["enabled"], found["paused_until"], found["state"]) == (False, None, "paused")


@pytest.mark.wall_clock
async def test_aliases_do_not_make_a_small_file_costly(api: Any, definitions: str) -> None:
    level = "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
    level += "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
    body = "---\n".join([level] * 60)
    began = time.monotonic()
    headers = {"Content-Type": "application/yaml"}
    answer = await api.put(definitions, content=body, headers=headers)
    assert answer.status_code == 422
    assert "aliases" in answer.text
    assert time.monotonic() - began < 2


@pytest.mark.wall_clock
async def test_too_many_definitions_are_refused_before_they_are_judged(
    api: Any, definitions: str
) -> None:
    began = time.monotonic()
    body = b'{"definitions":[' + b"{}," * 1_000_000 + b"{}]}"
    answer = await api.put(definitions, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "at most 10000" in answer.json()["detail"]
    assert time.monotonic() - began < 3


async def test_whoever_waits_for_a_lock_is_told_so_and_tells_no_secret(
    build: Any,
    database_url: str,
    acme: str,
    a_definition: Any,
    sql: asyncpg.Connection,
    caplog: Any,
) -> None:
    wanted = {**a_definition(), "parameters": {"workflow_id": "S3CRET"}}
    async with database.opened(make_url(database_url), quick=True) as engine:
        api = await build(engine=engine)
        async with sql.transaction():
            await sql.execute("select from tenants where slug = $1 for update", acme)
            answer = await api.post(f"/tenants/{acme}/definitions", json=wanted)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert "S3CRET" not in caplog.text
        again = await api.post(f"/tenants/{acme}/definitions", json=wanted)
        assert again.status_code == 201
