"""What is deleted of old runs and records, and what stays."""

import asyncio
import socket
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import get_client

from flows.old_runs import EmptyFilter, Kept, OldRuns, only
from tests.cleaning.conftest import RUNNING, House, Patient

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

    counts = await house.clean()

    assert await house.left(nightly) == of_nightly[-2:]
    assert await house.left(other) == of_other[-3:]
    assert (counts["definitions"], counts["looked_at"], counts["runs"]) == (2, 2, 4)
    assert (await house.clean())["runs"] == 0


async def test_what_ended_within_a_day_stays_however_much_it_is(house: House):
    nightly = await house.definition(keep=1)
    old, young = await house.runs(nightly, 3), await house.runs(nightly, 3, hours=23)

    await house.clean()

    assert await house.left(nightly) == young
    assert set(old).isdisjoint(young)


async def test_a_run_that_has_not_ended_stays_and_counts_for_nothing(house: House):
    nightly = await house.definition(keep=1)
    running = await house.runs(nightly, 2, hours=500, **RUNNING)
    ended = await house.runs(nightly, 3)

    await house.clean()

    assert await house.left(nightly) == [*running, ended[-1]]


async def test_a_run_that_goes_on_meanwhile_is_not_deleted(house: House, prefect_server: str):
    nightly = await house.definition()
    [run] = await house.runs(nightly, 1, **RUNNING)
    async with OldRuns.than(datetime.now(UTC)) as old:
        await old.delete([run])

    assert await house.left(nightly) == [run]


async def test_the_runs_that_ended_last_stay_whenever_they_were_due(house: House):
    """A job is due 30 days earlier for each step of its priority."""
    nightly = await house.definition(keep=1)
    [last] = await house.runs(nightly, 1, hours=25)
    await house.runs(nightly, 1, hours=480)
    await house.due(last, hours=6480)

    await house.clean()

    assert await house.left(nightly) == [last]


async def test_a_definition_that_has_had_no_more_runs_than_it_keeps_is_not_looked_at(house: House):
    await house.definition(keep=10, count=10)

    assert (await house.clean())["looked_at"] == 0


async def test_more_runs_than_a_page_are_deleted(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flows.old_runs.PAGE", 3)
    monkeypatch.setattr("flows.old_runs.BULK", 2)
    nightly = await house.definition(keep=2)
    old = await house.runs(nightly, 8)
    young = await house.runs(nightly, 4, hours=1)

    counts = await house.clean()

    assert await house.left(nightly) == young
    assert counts["runs"] == len(old)


async def test_nothing_that_prefect_has_of_a_run_outlives_it(house: House):
    nightly = await house.definition(keep=1)
    runs = await house.runs(nightly, 3)
    await house.leave_behind(runs)
    assert min((await house.kept_of(runs[:2])).values()) >= 2

    async with get_client() as client:
        old = OldRuns(datetime.now(UTC), client)
        await old.delete(runs[:2])

    assert old.counts["artifacts"] >= 2
    await house.wait_until_gone(runs[:2])
    assert min((await house.kept_of(runs[2:])).values()) >= 1


async def test_artifacts_are_left_to_a_server_that_deletes_what_belongs_to_no_run(house: House):
    nightly = await house.definition(keep=1)
    runs = await house.runs(nightly, 3)
    await house.leave_behind(runs)

    counts = await house.clean()

    assert (counts["runs"], counts["artifacts"]) == (2, 0)
    assert (await house.kept_of(runs[:2]))["artifact"] >= 2


@pytest.mark.acceptance
async def test_a_server_started_as_rota_does_deletes_what_belongs_to_no_run(
    start_prefect: Callable[[Path, int], subprocess.Popen[bytes]],
    end_group: Callable[..., None],
    short_home: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_DB_VACUUM_ORPHAN_CLEANUP_LOOP_SECONDS", "0.2")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    server = await asyncio.to_thread(start_prefect, short_home, port)
    try:
        address = f"http://127.0.0.1:{port}/api"
        async with httpx.AsyncClient(base_url=address, timeout=60, transport=Patient()) as http:
            artifact = {"type": "markdown", "key": "x", "data": "x", "flow_run_id": str(uuid4())}
            (await http.post("/artifacts/", json=artifact)).raise_for_status()
            async with asyncio.timeout(60):
                while await count_artifacts(http):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
    finally:
        end_group(server)


async def count_artifacts(http: httpx.AsyncClient) -> int:
    return int((await http.post("/artifacts/count", json={})).raise_for_status().json())


async def test_runs_of_flows_that_a_run_has_called_go_with_it(house: House):
    nightly, other = await house.definition(keep=1), await house.definition("other", keep=1)
    parent, last = await house.runs(nightly, 2)
    called, called_by_that, asked_for = await house.runs(nightly, 3, hours=30)
    for child, of in ((called, parent), (called_by_that, called), (asked_for, parent)):
        task = {"flow_run_id": of, "task_key": child, "dynamic_key": "0"}
        made = (await house.http.post("/task_runs/", json=task)).raise_for_status().json()
        house.call(child, made["id"], other if child == asked_for else None)

    await house.clean()

    assert await house.left(nightly, other) == [last, asked_for]
    assert await house.there([parent, called, called_by_that]) == []


@pytest.mark.acceptance
async def test_a_cleaner_that_is_killed_anywhere_is_finished_by_the_next(house: House):
    nightly = await house.definition(keep=2)
    running = await house.runs(nightly, 1, hours=500, **RUNNING)
    runs = await house.runs(nightly, 30)
    young = await house.runs(nightly, 1, hours=1)
    await house.leave_behind(runs)
    for most in (29, 22, 15):
        await house.kill_a_cleaner_when(lambda left, most=most: len(left) < most, nightly)
    assert len(await house.left(nightly)) > 4

    await house.clean()

    assert await house.left(nightly) == [*running, runs[-1], *young]
    assert (await house.clean())["runs"] == 0


async def test_the_database_grows_no_further_however_long_a_definition_runs(house: House):
    nightly, all_runs, sizes = await house.definition(keep=2), list[str](), []
    for hours in (96, 72, 48):
        all_runs += (made := await house.runs(nightly, 4, hours=hours))
        await house.leave_behind(made)
        await house.clean()
        assert await house.left(nightly) == all_runs[-2:]
        kept = await house.kept_of(all_runs)
        sizes.append((kept["flow_run_state"], kept["task_run"]))

    assert sizes[0] == sizes[1] == sizes[2]


# -- runs of deployments that are gone


async def label(house: House, run_ids: list[str], definition: str) -> None:
    for one in run_ids:
        answer = await house.http.patch(
            f"/flow_runs/{one}/labels", json={"rota.definition": definition}
        )
        answer.raise_for_status()


async def test_old_runs_of_a_definition_that_is_gone_go_too(house: House):
    nightly, gone = await house.definition(), await house.deployment()
    kept, orphans = await house.runs(nightly, 2), await house.runs(gone, 3)
    young = await house.runs(gone, 2, hours=1)
    running = await house.runs(gone, 1, hours=500, **RUNNING)
    await label(house, orphans[:1], str(uuid4()))

    counts = await house.clean()

    assert (counts["orphans"], counts["runs"]) == (len(orphans), len(orphans))
    assert await house.left(nightly, gone) == running + kept + young
    assert (await house.clean())["orphans"] == 0


async def test_another_rotas_and_another_tenants_runs_are_left_alone(house: House):
    gone = await house.deployment()
    runs = await house.runs(gone, 2)
    async with OldRuns.than(datetime.now(UTC)) as old:
        assert await old.clean_former("rota:another", house.queue, {}) == 0
        assert await old.clean_former(house.tag, "another", {}) == 0

    assert await house.left(gone) == runs


async def test_runs_of_a_deployment_that_was_made_anew_count_among_its_definitions(house: House):
    nightly, gone, before_that = [await house.deployment() for _ in range(3)]
    await house.define("nightly", nightly, keep=4)
    definition = await house.id_of("nightly")
    oldest = await house.runs(before_that, 3, hours=99)
    former = await house.runs(gone, 3, hours=72)
    present = await house.runs(nightly, 2)
    running = await house.runs(gone, 1, hours=500, **RUNNING)
    await label(house, [*oldest, *former, *running], definition)

    counts = await house.clean()

    assert await house.left(nightly, gone, before_that) == running + former[-2:] + present
    assert (counts["runs"], counts["orphans"]) == (4, 4)
    assert (await house.clean())["runs"] == 0


async def test_former_runs_of_a_definition_without_a_deployment_are_kept_as_many_as_it_says(
    house: House,
):
    gone = await house.deployment()
    await house.define("nightly", None, keep=2)
    former = await house.runs(gone, 5)
    await label(house, former, await house.id_of("nightly"))

    assert (await house.clean())["orphans"] == 3
    assert await house.left(gone) == former[-2:]


async def test_former_runs_go_once_there_are_enough_later_ones(house: House):
    nightly, gone = await house.definition(keep=2), await house.deployment()
    former = await house.runs(gone, 2, hours=72)
    await label(house, former, await house.id_of("nightly"))
    await house.runs(nightly, 1)
    await house.clean()
    assert await house.left(gone) == former[-1:]
    await house.runs(nightly, 1, hours=1)

    await house.clean()

    assert await house.left(gone) == []


async def test_former_runs_of_several_pages_are_kept_by_definition(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flows.old_runs.PAGE", 3)
    monkeypatch.setattr("flows.old_runs.BULK", 2)
    left = {}
    for name, keep in (("one", 2), ("two", 3)):
        gone = await house.deployment()
        await house.define(name, None, keep=keep)
        runs = await house.runs(gone, 7, hours=70 + keep)
        await label(house, runs, await house.id_of(name))
        left[gone] = runs[-keep:]

    assert (await house.clean())["orphans"] == 14 - 5
    assert {gone: await house.left(gone) for gone in left} == left


async def test_runs_that_are_kept_of_a_former_deployment_are_not_looked_for_beyond_themselves(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flows.old_runs.PAGE", 2)
    nightly, gone = await house.definition(keep=9), await house.deployment()
    await label(house, await house.runs(gone, 1, hours=99), await house.id_of("nightly"))
    await house.runs(nightly, 8)
    read = []
    async with OldRuns.than(datetime.now(UTC) - timedelta(days=1)) as old:
        runs = old._runs

        async def counted(*asked: Any) -> list[Any]:
            read.append(found := await runs(*asked))
            return found

        monkeypatch.setattr(old, "_runs", counted)
        kept = {await house.id_of("nightly"): Kept(nightly, 9)}
        assert await old.clean_former(house.tag, house.queue, kept) == 0

    assert len(read) == 1


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
        "insert into notices (tenant, kind, severity, subject, text, at, claimed_at) values "
        "('acme', 'x', 'info', 'old', 't', now(), now() - interval '31 days'), "
        "('acme', 'x', 'info', 'waits', 't', now() - interval '29 days', null), "
        "('acme', 'x', 'info', 'nobody asks', 't', now() - interval '31 days', null), "
        "('acme', 'x', 'info', 'new', 't', now() - interval '31 days', now())"
    )
    await sql.execute(
        "insert into incidents (tenant, kind, severity, title, status, resolved_at) values "
        "('acme', 'x', 'warning', 't', 'resolved', now() - interval '31 days'), "
        "('acme', 'x', 'warning', 't', 'detected', null)"
    )
    await sql.execute("insert into servers (tenant, handle) values ('acme', 'web-1')")
    await sql.execute("update servers set status = 'ready'")
    await sql.execute("insert into servers (tenant, handle) values ('acme', 'sold')")
    await sql.execute("delete from servers where handle = 'sold'")
    await sql.execute("update server_changes set at = now() - interval '31 days'")
    await sql.execute("insert into jobs (tenant, name, command) values ('acme', 'queued', 'true')")
    await sql.execute(
        "insert into jobs (tenant, name, command, status, finished_at) values "
        "('acme', 'old', 'true', 'completed', now() - interval '31 days'), "
        "('acme', 'new', 'true', 'failed', now())"
    )
    await sql.execute(
        "insert into jobs (tenant, name, command, status, created_at, updated_at) select 'acme', "
        "'imported', 'true', 'completed', at, at from (select now() - interval '31 days' as at) x"
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

    counts = await house.clean()

    kinds = ("dead_letters", "notices", "incidents", "server_changes", "jobs", "action_runs")
    gone = {kind: counts[kind] for kind in kinds}
    assert gone == {**dict.fromkeys(kinds, 1), "jobs": 2, "notices": 2, "server_changes": 3}
    subjects = await sql.fetch("select subject from notices order by subject")
    assert [row["subject"] for row in subjects] == ["new", "waits"]
    assert [row["name"] for row in await sql.fetch("select name from jobs order by name")] == [
        "new",
        "queued",
    ]
    assert await sql.fetchval("select after from server_changes") == "ready"
    again = await house.clean()
    assert {again[kind] for kind in gone} == {0}


async def test_records_go_in_portions(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("store.retention.AT_ONCE", 2)
    await house.rota.sql.execute(
        "insert into notices (tenant, kind, severity, subject, text, claimed_at) "
        "select 'acme', 'x', 'info', 's', 't', now() - interval '31 days' "
        "from generate_series(1, 5)"
    )

    assert (await house.clean())["notices"] == 5


async def test_another_tenants_records_stay(house: House):
    await house.rota.add_tenant("globex")
    await house.rota.sql.execute(
        "insert into notices (tenant, kind, severity, subject, text, claimed_at) "
        "values ('globex', 'x', 'info', 's', 't', now() - interval '31 days')"
    )

    assert (await house.clean())["notices"] == 0
