"""What is deleted of old runs and records, and what stays."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from flows.cleaner import cleaner
from flows.old_runs import EmptyFilter, OldRuns, only
from tests.cleaning.conftest import RUNNING, House


async def clean() -> dict[str, Any]:
    found: dict[str, Any] = await cleaner(tenant="acme")
    return found


# -- the filter


def test_a_filter_of_nothing_is_refused():
    with pytest.raises(EmptyFilter):
        only([])


@pytest.mark.parametrize("bad", ["", "x", "%"])
def test_a_filter_of_what_is_no_id_is_refused(bad: str):
    with pytest.raises(ValueError, match="badly formed"):
        only([str(uuid4()), bad])


def test_a_filter_names_runs_that_have_ended_only():
    one = str(uuid4())
    found = only([one])
    assert found["id"] == {"any_": [one]}
    assert "RUNNING" not in found["state"]["type"]["any_"]


# -- runs


async def test_the_latest_runs_stay_and_older_ones_go(house: House):
    nightly, other = await house.definition(), await house.definition("other", keep=3)
    of_nightly, of_other = await house.runs(nightly, 5), await house.runs(other, 4)

    counts = await clean()

    assert await house.left(nightly) == of_nightly[-2:]
    assert await house.left(other) == of_other[-3:]
    assert (counts["definitions"], counts["looked_at"], counts["runs"]) == (2, 2, 4)
    assert (await clean())["runs"] == 0


async def test_what_ended_within_a_day_stays_however_much_it_is(house: House):
    nightly = await house.definition(keep=1)
    old, young = await house.runs(nightly, 3), await house.runs(nightly, 3, hours=23)

    await clean()

    assert await house.left(nightly) == young
    assert set(old).isdisjoint(young)


async def test_a_run_that_has_not_ended_stays_and_counts_for_nothing(house: House):
    nightly = await house.definition(keep=1)
    running = await house.runs(nightly, 2, hours=500, **RUNNING)
    ended = await house.runs(nightly, 3)

    await clean()

    assert await house.left(nightly) == [*running, ended[-1]]


async def test_a_run_that_goes_on_meanwhile_is_not_deleted(house: House, prefect_server: str):
    nightly = await house.definition()
    [run] = await house.runs(nightly, 1, **RUNNING)
    async with OldRuns.than(datetime.now(UTC)) as old:
        await old.delete([run])

    assert await house.left(nightly) == [run]


async def test_a_definition_that_has_had_no_more_runs_than_it_keeps_is_not_looked_at(house: House):
    await house.definition(keep=10, count=10)

    assert (await clean())["looked_at"] == 0


async def test_more_runs_than_a_page_are_deleted(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flows.old_runs.PAGE", 3)
    monkeypatch.setattr("flows.old_runs.BULK", 2)
    nightly = await house.definition(keep=2)
    old = await house.runs(nightly, 8)
    young = await house.runs(nightly, 4, hours=1)

    counts = await clean()

    assert await house.left(nightly) == young
    assert counts["runs"] == len(old)


async def test_nothing_that_prefect_has_of_a_run_outlives_it(house: House):
    nightly = await house.definition(keep=1)
    runs = await house.runs(nightly, 3)
    for one in runs:
        artifact = {"type": "markdown", "data": "x", "flow_run_id": one}
        task = {"flow_run_id": one, "task_key": "t", "dynamic_key": "0"}
        line = {"name": "x", "level": 20, "message": "m", "flow_run_id": one}
        line["timestamp"] = datetime.now(UTC).isoformat()
        for path, body in (("/artifacts/", artifact), ("/task_runs/", task), ("/logs/", [line])):
            (await house.http.post(path, json=body)).raise_for_status()
    assert min((await house.kept_of(runs[:2])).values()) >= 2

    counts = await clean()

    assert counts["artifacts"] >= 2
    async with asyncio.timeout(60):  # the logs go a moment later
        while any((await house.kept_of(runs[:2])).values()):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert min((await house.kept_of(runs[2:])).values()) >= 1


async def test_a_run_that_is_killed_in_the_middle_is_finished_by_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flows.old_runs.BULK", 2)
    nightly = await house.definition(keep=1)
    runs = await house.runs(nightly, 7)
    async with OldRuns.than(datetime.now(UTC)) as old:
        await old.delete(runs[:2])  # all that it came to

    assert (await clean())["runs"] == 4
    assert await house.left(nightly) == runs[-1:]


# -- runs of definitions that are gone


async def test_old_runs_of_a_definition_that_is_gone_go_too(house: House):
    nightly, gone = await house.definition(), await house.deployment()
    kept, orphans = await house.runs(nightly, 2), await house.runs(gone, 3)
    young = await house.runs(gone, 2, hours=1)
    async with OldRuns.than(datetime.now(UTC) - timedelta(days=1)) as old:
        assert await old.clean_orphans(house.tag, house.queue, {nightly}, set()) == len(orphans)
        assert await old.clean_orphans(house.tag, house.queue, {nightly}, set()) == 0

    assert await house.left(nightly, gone) == kept + young


async def test_another_rotas_and_another_tenants_runs_are_left_alone(house: House):
    gone = await house.deployment()
    runs = await house.runs(gone, 2)
    async with OldRuns.than(datetime.now(UTC)) as old:
        assert await old.clean_orphans("rota:another", house.queue, set(), set()) == 0
        assert await old.clean_orphans(house.tag, "another", set(), set()) == 0

    assert await house.left(gone) == runs


async def test_runs_of_a_definition_whose_deployment_was_made_anew_are_no_orphans(house: House):
    gone = await house.deployment()
    runs = await house.runs(gone, 2)
    labels = {"rota.definition": "7"}
    for one in runs:
        answer = await house.http.patch(f"/flow_runs/{one}/labels", json=labels)
        answer.raise_for_status()
    async with OldRuns.than(datetime.now(UTC)) as old:
        assert await old.clean_orphans(house.tag, house.queue, set(), {"7"}) == 0


# -- records


async def test_records_that_are_done_with_go_by_age(house: House):
    sql = house.rota.sql
    for status, days in (("open", 99), ("discarded", 29), ("discarded", 31)):
        await sql.execute(
            "insert into dead_letters (tenant, definition_id, name, run_id, occurrence, trigger, "
            "first_at, last_at, status, decided_at) values ('acme', gen_random_uuid(), 'n', "
            "gen_random_uuid(), now(), 'manual', now(), now(), $1, now() - $2 * interval '1 day')",
            *(status, days),
        )
    await sql.execute(
        "insert into notices (tenant, kind, severity, subject, text, claimed_at) values "
        "('acme', 'x', 'info', 's', 't', now() - interval '31 days'), "
        "('acme', 'x', 'info', 's', 't', now()), ('acme', 'x', 'info', 's', 't', null)"
    )
    await sql.execute(
        "insert into incidents (tenant, kind, severity, title, status, resolved_at) values "
        "('acme', 'x', 'warning', 't', 'resolved', now() - interval '31 days'), "
        "('acme', 'x', 'warning', 't', 'detected', null)"
    )
    await sql.execute("insert into servers (tenant, handle) values ('acme', 'web-1')")
    await sql.execute("update servers set status = 'ready'")
    await sql.execute("update server_changes set at = now() - interval '31 days'")
    await sql.execute("insert into jobs (tenant, name, command) values ('acme', 'queued', 'true')")
    await sql.execute(
        "insert into jobs (tenant, name, command, status, finished_at) values "
        "('acme', 'old', 'true', 'completed', now() - interval '31 days'), "
        "('acme', 'new', 'true', 'failed', now())"
    )
    await sql.execute(
        "insert into action_runs (tenant, id, action, revision, started_at) values "
        "('acme', gen_random_uuid(), 'a', 1, now() - interval '31 days'), "
        "('acme', gen_random_uuid(), 'a', 1, now()), "
        "('acme', gen_random_uuid(), 'long', 1, now() - interval '31 days')"
    )
    await sql.execute(
        "insert into action_steps (tenant, run_id, step, position, kind, status, started_at) "
        "select tenant, id, 's', 0, 'log', 'running', now() from action_runs where action = 'long'"
    )

    counts = await clean()

    kinds = ("dead_letters", "notices", "incidents", "server_changes", "jobs", "action_runs")
    gone = {kind: counts[kind] for kind in kinds}
    assert gone == dict.fromkeys(kinds, 1)
    assert [row["name"] for row in await sql.fetch("select name from jobs order by name")] == [
        "new",
        "queued",
    ]
    assert await sql.fetchval("select after from server_changes") == "ready"
    again = await clean()
    assert {again[kind] for kind in gone} == {0}


async def test_records_go_in_portions(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("store.retention.AT_ONCE", 2)
    await house.rota.sql.execute(
        "insert into notices (tenant, kind, severity, subject, text, claimed_at) "
        "select 'acme', 'x', 'info', 's', 't', now() - interval '31 days' "
        "from generate_series(1, 5)"
    )

    assert (await clean())["notices"] == 5


async def test_another_tenants_records_stay(house: House):
    await house.rota.add_tenant("globex")
    await house.rota.sql.execute(
        "insert into notices (tenant, kind, severity, subject, text, claimed_at) "
        "values ('globex', 'x', 'info', 's', 't', now() - interval '31 days')"
    )

    assert (await clean())["notices"] == 0
