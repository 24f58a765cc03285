"""Rosters from files against a real database."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.roster_file import BadRoster, Entry, dump
from scripts import errors, session
from scripts.roster_file import load
from store import loading, pause, roster, tenants
from store.loading import Loaded, TenantRows

TWO = """
tenant: acme
title: Acme
definitions:
  - name: a
    duty: workflow_run
    cron: "* * * * *"
    parameters: {workflow_id: x, input: {n: 1, big: 1e16, small: 1e-7, whole: 1.0, yes: true}}
  - name: b
    duty: workflow_run
    parameters: {workflow_id: y}
    inputs:
      - name: branch
        required: true
        default: "no"
        regex: ^[a-z]+$
    retries: 3
    starts_at: 2026-01-01T00:00:00+01:00
    tags: [x, y]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "roster.yaml"
    put(path, TWO)
    return path


def put(file: Path, text: str) -> None:
    file.write_text(text)


def read(file: Path) -> str:
    return file.read_text()


async def changes(sql: asyncpg.Connection) -> list[tuple[str, str | None]]:
    """Returns the notes, and deletes them."""
    rows = await sql.fetch("delete from changes returning operation, name, id")
    ordered = sorted(rows, key=lambda row: row["id"])
    return [(row["operation"], row["name"]) for row in ordered]


async def test_a_roster_is_written_once(engine: AsyncEngine, file: Path, sql: Any):
    loaded = await load(engine, file)
    assert loaded == Loaded(created=["acme/a", "acme/b"])
    await changes(sql)

    again = await load(engine, file, prune=True)

    assert again == Loaded(unchanged=["acme/a", "acme/b"])
    assert await changes(sql) == []


async def test_only_what_differs_is_written(engine: AsyncEngine, file: Path, sql: Any):
    await load(engine, file)
    await changes(sql)
    put(file, TWO.replace("retries: 3", "retries: 4"))

    loaded = await load(engine, file)

    assert loaded == Loaded(updated=["acme/b"], unchanged=["acme/a"])
    assert await changes(sql) == [("update", "b")]


SEMAPHORE = """
apiVersion: v1.1
kind: Schedule
metadata: {name: Nightly build}
spec:
  project: web
  recurring: true
  branch: main
  at: 0 3 * * *
  pipeline_file: .semaphore/nightly.yml
  parameters: [{name: TARGET, required: true, default_value: all, options: [all, api]}]
"""


async def test_semaphores_tasks_are_written_for_a_tenant(engine: AsyncEngine, file: Path):
    put(file, SEMAPHORE)
    with pytest.raises(BadRoster, match="say whose it is with `rota load --tenant`"):
        await load(engine, file)

    assert await load(engine, file, tenant="acme") == Loaded(created=["acme/nightly-build"])

    row = await roster.find(engine, "acme/nightly-build")
    assert row is not None
    assert (row.title, row.cron, row.day_and) == ("Nightly build", "0 3 * * *", True)
    assert row.parameters["input"]["reference"] == "main"
    assert row.inputs == [
        {"name": "TARGET", "required": True, "default": "all", "options": ["all", "api"]}
    ]
    put(file, SEMAPHORE.replace("default_value: all", "default_value: api"))
    assert (await load(engine, file, tenant="acme")).updated == ["acme/nightly-build"]
    assert (await load(engine, file, tenant="acme")).unchanged == ["acme/nightly-build"]
    put(file, await dumped(engine))
    assert (await load(engine, file, prune=True)).unchanged == ["acme/nightly-build"]


async def test_a_file_for_another_tenant_is_not_written(engine: AsyncEngine, file: Path):
    with pytest.raises(BadRoster, match="'acme' is another than 'globex'"):
        await load(engine, file, tenant="globex")
    assert await tenants.everyone(engine) == []
    assert (await load(engine, file, tenant="acme")).created == ["acme/a", "acme/b"]


async def test_true_is_not_one(engine: AsyncEngine, file: Path, sql: Any):
    await load(engine, file)
    await changes(sql)
    put(file, TWO.replace("n: 1,", "n: true,"))
    assert (await load(engine, file)).updated == ["acme/a"]
    assert await changes(sql) == [("update", "a")]


async def test_what_a_file_leaves_out_goes_back_to_its_default(engine: AsyncEngine, file: Path):
    await load(engine, file)
    put(file, TWO.replace("    retries: 3\n", "").replace("    tags: [x, y]\n", ""))
    assert (await load(engine, file)).updated == ["acme/b"]
    row = await roster.find(engine, "acme/b")
    assert row is not None
    assert (row.retries, row.tags) == (0, [])


async def test_prune_leaves_the_definition_that_jobs_wait_for(
    engine: AsyncEngine, file: Path, sql: asyncpg.Connection
):
    await load(engine, file)
    await sql.execute("insert into jobs (tenant, name, command) values ('acme', 'a', 'true')")

    assert (await load(engine, file, prune=True)).deleted == []

    await sql.execute("update jobs set status = 'cancelled'")
    assert (await load(engine, file, prune=True)).deleted == ["acme/jobs"]


async def test_prune_deletes_only_of_tenants_in_the_file(engine: AsyncEngine, file: Path):
    await load(engine, file)
    put(file, TWO.replace("tenant: acme", "tenant: other"))
    await load(engine, file)
    put(
        file,
        "tenant: acme\ndefinitions: [{name: c, duty: workflow_run, parameters: {workflow_id: z}}]",
    )

    assert await load(engine, file) == Loaded(created=["acme/c"])
    loaded = await load(engine, file, prune=True)

    assert loaded == Loaded(unchanged=["acme/c"], deleted=["acme/a", "acme/b"])
    assert await roster.references(engine) == ["acme/c", "other/a", "other/b"]


async def test_a_dry_run_says_the_same_and_writes_nothing(
    engine: AsyncEngine, file: Path, sql: Any
):
    loaded = await load(engine, file, dry_run=True)
    assert loaded == Loaded(created=["acme/a", "acme/b"])
    assert await roster.references(engine) == []
    assert await tenants.everyone(engine) == []
    assert await changes(sql) == []


async def test_nothing_is_written_if_anything_is_bad(engine: AsyncEngine, file: Path):
    put(file, TWO + "  - {name: c, duty: workflow_rum}\n  - {name: d, duty: x, corn: 1}\n")
    with pytest.raises(BadRoster) as refused:
        await load(engine, file)
    assert refused.value.errors == [
        "acme/d: corn: there is no such key; did you mean 'cron'?",
        "acme/c: duty: no duty is named 'workflow_rum'; did you mean 'workflow_run'?",
    ]
    assert await tenants.everyone(engine) == []


async def test_a_date_that_has_passed_may_stay(engine: AsyncEngine, file: Path, sql: Any):
    text = (
        "tenant: acme\ndefinitions:\n  - name: once\n    duty: workflow_run\n"
        "    run_at: 2026-01-01T00:00:00Z\n    parameters: {workflow_id: x}\n"
    )
    put(file, text)
    with pytest.raises(BadRoster, match="had passed when it was written"):
        await load(engine, file)
    await sql.execute("insert into tenants (slug) values ('acme')")
    await sql.execute(
        "insert into definitions (tenant, name, duty, run_at, parameters) values "
        "('acme', 'once', 'workflow_run', '2026-01-01 00:00Z', '{\"workflow_id\": \"x\"}')"
    )
    assert (await load(engine, file)).unchanged == ["acme/once"]


async def test_the_database_has_the_last_word(engine: AsyncEngine):
    values = Entry(name="x", duty="d").values | {"parameters": {"x": "y" * 1024**2}}
    with pytest.raises(IntegrityError) as refused:
        await loading.load(engine, [TenantRows("acme", {"a": values})], prune=False, dry_run=True)
    assert errors.sentence(refused.value) == (
        "The database refuses it: parameters: at most 512 KiB as text."
    )
    assert await tenants.everyone(engine) == []


async def test_a_dump_loads_into_the_same_rows(engine: AsyncEngine, file: Path, sql: Any):
    await load(engine, file)
    query = (
        "select to_jsonb(d) - '{id,created_at,updated_at}'::text[] from definitions d order by 1"
    )
    before = await sql.fetch(query)
    put(file, await dumped(engine))
    assert (await load(engine, file, prune=True)).unchanged == ["acme/a", "acme/b"]

    await sql.execute("delete from tenants")
    await load(engine, file)

    assert await sql.fetch(query) == before
    assert await dumped(engine) == read(file)


async def test_a_title_that_is_left_out_stays(engine: AsyncEngine, file: Path):
    await load(engine, file)
    put(file, TWO.replace("title: Acme\n", ""))
    await load(engine, file)
    [one] = await tenants.everyone(engine)
    assert one.tenant.title == "Acme"


async def test_a_missing_file_is_said_in_a_sentence(engine: AsyncEngine, tmp_path: Path):
    with pytest.raises(session.Refused, match="cannot be read: No such file or directory"):
        await load(engine, tmp_path / "none.yaml")


async def test_a_tenant_is_suspended_and_let_go(engine: AsyncEngine, file: Path, sql: Any):
    await load(engine, file)
    await changes(sql)
    assert await tenants.suspend(engine, "acme", "bill")
    [one] = await tenants.everyone(engine)
    assert one.definitions == 2
    assert (one.tenant.suspended, one.tenant.suspended_reason) == (True, "bill")
    assert one.tenant.suspended_at is not None
    assert await tenants.unsuspend(engine, "acme")
    assert not await tenants.suspend(engine, "acne", None)
    assert await changes(sql) == [("update", None)] * 2


async def test_a_paused_definition_is_resumed(engine: AsyncEngine, file: Path):
    await load(engine, file)
    row = await session.definition(engine, "acme/a")
    await pause.pause(engine, row.id, None, "why")
    row = await session.definition(engine, "acme/a")
    assert (row.enabled, row.pause_note) == (False, "why")
    await pause.resume(engine, row.id)
    row = await session.definition(engine, "acme/a")
    assert (row.enabled, row.paused_until, row.pause_note) == (True, None, None)


async def test_a_wrong_reference_names_the_likely_one(engine: AsyncEngine, file: Path):
    with pytest.raises(session.Refused, match="there are none yet"):
        await session.definition(engine, "acme/a")
    await load(engine, file)
    with pytest.raises(session.Refused, match="did you mean 'acme/a'"):
        await session.definition(engine, "acm/a")


async def dumped(engine: AsyncEngine) -> str:
    everyone = [one.tenant for one in await tenants.everyone(engine)]
    return dump(everyone, (await roster.read(engine)).definitions)
