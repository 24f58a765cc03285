from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from deployments import explain
from deployments.policy import create_only, upsert_only
from deployments.reconcile import Reconciler

DAILY = "0 3 * * *"


def _soon(**ahead: float) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(**ahead)


async def _schedule(house, name: str) -> dict[str, Any]:
    [schedule] = (await house.deployment(name))["schedules"]
    return schedule


async def _foreign(house, name: str, **more: Any) -> dict[str, Any]:
    """Makes a deployment as somebody else would; returns it as Prefect has it."""
    flow = await house.call("POST", "/flows/", {"name": "workflow-run"})
    flow_name = more.pop("flow_name", None)
    if flow_name:
        flow = await house.call("POST", "/flows/", {"name": flow_name})
    body = {"flow_id": flow["id"], "name": name, "parameters": {"workflow_id": "theirs"}, **more}
    return await house.call("POST", "/deployments/", body)


# -- create, update, delete


async def test_a_row_becomes_a_deployment_with_its_runs(house):
    definition = await house.define(
        "nightly", cron="15 3 * * *", timezone="Asia/Tokyo", retries=2, tags=["night"]
    )

    await house.step()

    deployment = await house.deployment("nightly")
    assert deployment["name"] == f"{house.tenant}.nightly"
    assert deployment["entrypoint"] == "deployments.bound.workflow_run"
    assert deployment["parameters"] == {"workflow_id": "nightly"}
    assert deployment["tags"] == [house.tag, "night"]
    assert deployment["labels"]["rota.definition"] == str(definition)
    assert deployment["labels"]["rota.reference"] == f"{house.tenant}/nightly"
    assert (deployment["work_pool_name"], deployment["work_queue_name"]) == ("rota", house.tenant)
    assert deployment["job_variables"]["env"]["ROTA_RETRIES"] == "2"
    [schedule] = deployment["schedules"]
    assert schedule["slug"] == "definition"
    assert schedule["schedule"] == {
        "cron": "15 3 * * *",
        "timezone": "Asia/Tokyo",
        "day_or": True,
    }
    runs = await house.runs("nightly")
    assert len(runs) >= 2
    assert {(run.hour, run.minute) for run in runs} == {(18, 15)}


async def test_the_row_learns_of_its_deployment(house):
    await house.define("nightly", cron=DAILY)

    await house.step()

    row, deployment = await house.row("nightly"), await house.deployment("nightly")
    assert str(row["deployment_id"]) == deployment["id"]
    assert row["fingerprint"] == deployment["version"]
    assert row["next_run_at"] == (await house.runs("nightly"))[0]
    assert row["applied_at"] is not None
    assert row["problem"] is None


async def test_second_apply_changes_nothing(house, proxy):
    await house.define("cron", timezone="Europe/Berlin", day_and=True)
    await house.define("interval", interval_seconds=90, anchor_at=_soon(days=-1))
    await house.define("once", run_at=_soon(hours=1))
    await house.define("on-demand", cron=None, overlap="queue", retries=3, timeout_seconds=1.5)
    await house.define(
        "odd",
        title="Ünï <b>'\"",
        parameters={"workflow_id": "w", "input": {"f": 1.0, "n": None, "s": "\\u0000 \U0001f600"}},
        job_variables={"env": {"A": "b"}, "working_dir": "/tmp"},
        tags=["b", "a", "b"],
        paused_until=_soon(hours=1),
    )
    await house.step()
    assert len(await house.deployments()) == 5

    await house.sql.execute("update definitions set retries = retries + 1")
    await house.sql.execute("update definitions set retries = retries - 1")
    proxy.mend()
    noted = await house.step()
    swept = await house.reconciler.sweep()

    assert proxy.calls != []
    assert proxy.writes == []
    assert len(noted.comparison.plan.unchanged) == len(swept.comparison.plan.unchanged) == 5


async def test_an_update_writes_only_what_changed(house, proxy):
    await house.define("nightly", cron=DAILY)
    await house.define("other", cron=DAILY)
    await house.step()
    before, other = await house.deployment("nightly"), await house.deployment("other")
    proxy.mend()

    await house.change("nightly", parameters={"workflow_id": "changed"})
    await house.step()

    assert proxy.writes == [
        f"PATCH /api/deployments/{before['id']}",
        f"POST /api/deployments/{before['id']}/schedule",
    ]
    [patch] = [call for call in proxy.calls if call.method == "PATCH"]
    assert patch.body.keys() == {"parameters", "version"}
    after = await house.deployment("nightly")
    changed = {key for key in after if after[key] != before[key]}
    assert changed - {"updated", "version"} == {"parameters"}
    assert await house.deployment("other") == other


async def test_the_runs_of_an_update_take_the_new_parameters(house):
    await house.define("nightly", cron=DAILY)
    await house.step()
    due = await house.runs("nightly")

    await house.change("nightly", parameters={"workflow_id": "changed"})
    await house.step()

    assert await house.runs("nightly") == due
    body = {
        "flow_runs": {
            "deployment_id": {"any_": [(await house.deployment("nightly"))["id"]]},
        }
    }
    runs = await house.call("POST", "/flow_runs/filter", body)
    assert {run["parameters"]["workflow_id"] for run in runs} == {"changed"}


async def test_a_deleted_row_takes_its_deployment_and_its_runs_along(house):
    await house.define("nightly", cron=DAILY)
    await house.define("other", cron=DAILY)
    await house.step()
    gone = (await house.deployment("nightly"))["id"]

    await house.remove("nightly")
    await house.step()

    assert (await house.deployments()).keys() == {"other"}
    body = {"flow_runs": {"deployment_id": {"any_": [gone]}}}
    assert await house.call("POST", "/flow_runs/count", body) == 0


async def test_a_name_that_is_used_again_is_a_new_deployment(house):
    old = await house.define("nightly", cron=DAILY)
    await house.step()
    before = await house.deployment("nightly")

    await house.remove("nightly")
    new = await house.define("nightly", cron="0 4 * * *")
    await house.settle()

    after = await house.deployment("nightly")
    assert old != new
    assert after["id"] != before["id"]
    assert after["labels"]["rota.definition"] == str(new)
    assert {run.hour for run in await house.runs("nightly")} == {4}


async def test_a_name_that_was_only_gone_for_a_moment_is_there_at_the_end(house):
    await house.define("nightly", cron=DAILY)
    await house.remove("nightly")
    await house.define("nightly", cron=DAILY)
    await house.remove("nightly")
    last = await house.define("nightly", cron=DAILY)

    await house.settle()

    assert (await house.deployment("nightly"))["labels"]["rota.definition"] == str(last)


async def test_another_duty_is_another_deployment(house):
    await house.define("nightly", cron=DAILY)
    await house.step()
    before = await house.deployment("nightly")

    await house.change("nightly", duty="reconcile", parameters={"dry_run": True})
    await house.step()

    after = await house.deployment("nightly")
    assert after["id"] != before["id"]
    assert after["entrypoint"] == "deployments.bound.reconcile"
    assert str((await house.row("nightly"))["deployment_id"]) == after["id"]
    assert await house.runs("nightly") != []


async def test_a_deleted_tenant_leaves_nothing_in_prefect(house):
    await house.define("a")
    await house.define("b")
    await house.step()

    await house.sql.execute("delete from tenants")
    await house.step()

    assert await house.deployments() == {}


async def test_a_truncated_table_is_swept_away(house):
    await house.define("a")
    await house.step()

    await house.sql.execute("truncate definitions")
    await house.reconciler.sweep()

    assert await house.deployments() == {}


@pytest.mark.parametrize(("policy", "left"), [(upsert_only, {"a", "b"}), (create_only, {"a", "b"})])
async def test_a_policy_that_does_not_delete_deletes_nothing(house, policy, left):
    await house.define("a", cron=DAILY)
    await house.step()
    careful = Reconciler(house.engine, house.gateway, house.reconciler.settings, policy)

    await house.remove("a")
    await house.define("b", cron=DAILY)
    await careful.sweep()

    assert (await house.deployments()).keys() == left


async def test_a_policy_that_only_creates_updates_nothing(house):
    await house.define("a", cron=DAILY)
    await house.step()
    before = await house.deployment("a")
    careful = Reconciler(house.engine, house.gateway, house.reconciler.settings, create_only)

    await house.change("a", retries=5)
    await careful.sweep()

    assert await house.deployment("a") == before


# -- what is somebody else's


async def test_foreign_deployment_is_left_alone(house):
    foreign = await _foreign(house, f"{house.tenant}.theirs", tags=["rota", "rota:"])
    await house.define("ours")

    await house.step()
    await house.reconciler.sweep()
    await house.sql.execute("delete from definitions")
    await house.step()
    await house.reconciler.sweep()

    assert await house.call("GET", f"/deployments/{foreign['id']}") == foreign
    await house.call("DELETE", f"/deployments/{foreign['id']}")


@pytest.mark.parametrize("by", ["note", "sweep"])
async def test_a_name_that_a_foreign_deployment_has_is_a_problem(house, by):
    foreign = await _foreign(house, f"{house.tenant}.nightly")
    await house.define("nightly", cron=DAILY)
    await house.define("other", cron=DAILY)

    await (house.step() if by == "note" else house.reconciler.sweep())

    assert await house.call("GET", f"/deployments/{foreign['id']}") == foreign
    assert (await house.row("nightly"))["problem"] == (
        f"name: Prefect has a deployment workflow-run/{house.tenant}.nightly that this database "
        "does not own; rename or delete that one, or give this definition another name"
    )
    assert (await house.deployments()).keys() == {"other"}

    await house.call("DELETE", f"/deployments/{foreign['id']}")
    await house.reconciler.sweep()
    assert (await house.row("nightly"))["problem"] is None
    assert (await house.deployments()).keys() == {"nightly", "other"}


async def test_a_foreign_deployment_of_another_flow_may_have_the_name(house):
    foreign = await _foreign(house, f"{house.tenant}.nightly", flow_name="theirs")
    await house.define("nightly", cron=DAILY)

    await house.step()

    assert (await house.row("nightly"))["problem"] is None
    assert (await house.deployments()).keys() == {"nightly"}
    assert await house.call("GET", f"/deployments/{foreign['id']}") == foreign
    await house.call("DELETE", f"/deployments/{foreign['id']}")


async def test_another_instances_deployments_are_left_alone(house):
    other = f"rota:{uuid4().hex[:12]}"
    foreign = await _foreign(
        house,
        f"{house.tenant}.theirs",
        tags=[other],
        labels={"rota.definition": str(uuid4()), "rota.reference": f"{house.tenant}/theirs"},
    )

    await house.define("ours")
    await house.step()
    await house.reconciler.sweep()
    await house.sql.execute("delete from tenants")
    await house.reconciler.sweep()

    assert await house.deployments() == {}
    assert await house.call("GET", f"/deployments/{foreign['id']}") == foreign
    await house.call("DELETE", f"/deployments/{foreign['id']}")


# -- when


async def test_a_schedule_keeps_its_id_through_every_kind_of_when(house):
    await house.define("nightly", cron=DAILY)
    await house.step()
    first = await _schedule(house, "nightly")

    await house.change("nightly", cron="30 4 * * *", timezone="Europe/Berlin", day_and=True)
    await house.step()
    schedule = await _schedule(house, "nightly")
    assert schedule["id"] == first["id"]
    assert schedule["schedule"] == {
        "cron": "30 4 * * *",
        "timezone": "Europe/Berlin",
        "day_or": False,
    }

    anchor = _soon(minutes=1)
    await house.change("nightly", cron=None, interval_seconds=7200, anchor_at=anchor)
    await house.step()
    schedule = await _schedule(house, "nightly")
    assert schedule["id"] == first["id"]
    assert (await house.runs("nightly"))[:2] == [anchor, anchor + timedelta(hours=2)]

    at = _soon(minutes=30)
    await house.change("nightly", interval_seconds=None, anchor_at=None, run_at=at)
    await house.step()
    schedule = await _schedule(house, "nightly")
    assert schedule["id"] == first["id"]
    assert await house.runs("nightly") == [at]

    await house.change("nightly", run_at=None)
    await house.step()
    assert (await house.deployment("nightly"))["schedules"] == []
    assert await house.runs("nightly") == []

    await house.change("nightly", cron=DAILY, timezone="UTC")
    await house.step()
    assert (await _schedule(house, "nightly"))["schedule"]["cron"] == DAILY
    assert {run.hour for run in await house.runs("nightly")} == {3}


async def test_a_date_that_passed_while_nobody_watched_is_run_late_and_once(house):
    at = _soon(minutes=-5)
    await house.define("once", run_at=at, updated_at=_soon(minutes=-10))

    await house.step()
    assert await house.runs("once") == [at]

    await house.change("once", title="Edited since")
    await house.settle()
    await house.reconciler.sweep()
    assert await house.runs("once") == [at]


async def test_a_date_that_had_passed_when_it_was_written_is_a_problem(house):
    await house.define("once", run_at=_soon(minutes=-5))

    await house.step()

    assert "had passed when it was written" in (await house.row("once"))["problem"]
    assert await house.deployments() == {}


@pytest.mark.parametrize(
    ("columns", "paused"),
    [
        ({"enabled": False}, True),
        ({"starts_at": _soon(hours=1)}, True),
        ({"starts_at": _soon(hours=-1)}, False),
        ({"ends_at": _soon(hours=-1)}, True),
        ({"ends_at": _soon(hours=1)}, False),
        ({"paused_until": _soon(hours=1)}, True),
        ({"paused_until": _soon(hours=-1)}, False),
        ({"starts_at": _soon(hours=-2), "ends_at": _soon(hours=-1)}, True),
    ],
)
async def test_a_definition_out_of_its_time_is_paused_and_stays(house, columns, paused):
    await house.define("nightly", **columns)

    await house.step()

    assert (await house.deployment("nightly"))["paused"] is paused
    assert (await house.runs("nightly") == []) is paused
    await house.sql.execute(
        "update definitions set enabled = true, starts_at = null, ends_at = null, "
        "paused_until = null"
    )
    await house.settle()
    assert (await house.deployment("nightly"))["paused"] is False
    assert await house.runs("nightly") != []


async def test_pausing_for_ever_is_possible(house):
    await house.define("nightly")
    await house.sql.execute("update definitions set paused_until = 'infinity'")

    await house.step()

    assert (await house.deployment("nightly"))["paused"] is True
    assert (await house.row("nightly"))["problem"] is None


# -- drift


DRIFT: list[tuple[str, str, dict[str, Any], Any]] = [
    # field, path, what somebody writes in Prefect, what the report says it was
    ("paused", "", {"paused": True}, True),
    ("parameters", "", {"parameters": {"workflow_id": "x"}}, {"workflow_id": "x"}),
    ("description", "", {"description": "theirs"}, "theirs"),
    ("entrypoint", "", {"entrypoint": "theirs.flow"}, "theirs.flow"),
    ("job_variables", "", {"job_variables": {"env": {}}}, {"env": {}}),
    (
        "overlap",
        "",
        {"concurrency_limit": 1, "concurrency_options": {"collision_strategy": "CANCEL_NEW"}},
        "CANCEL_NEW",
    ),
    ("schedules", "/schedules/{schedule}", {"active": False}, False),
    (
        "schedules",
        "/schedules/{schedule}",
        {"schedule": {"cron": "0 9 * * *", "timezone": "UTC"}},
        {"cron": "0 9 * * *", "timezone": "UTC", "day_or": True},
    ),
    ("schedules", "/schedules/{schedule}", {"parameters": {"workflow_id": "y"}}, None),
]


@pytest.mark.parametrize(("field", "path", "edit", "was"), DRIFT)
async def test_drift_is_mended_and_reported(house, field, path, edit, was):
    await house.define("nightly", cron=DAILY)
    await house.step()
    before, due = await house.deployment("nightly"), await house.runs("nightly")
    schedule = before["schedules"][0]["id"]
    where = f"/deployments/{before['id']}" + path.format(schedule=schedule)
    await house.call("PATCH", where, edit)
    assert await house.deployment("nightly") != before

    report = await house.reconciler.sweep()

    [update] = report.comparison.plan.changes.update
    [difference] = update.differences
    assert difference.field == field
    if field != "schedules":
        assert difference.current == was
    elif was is not None:
        assert was in (difference.current[0]["active"], difference.current[0]["schedule"])
    [line] = explain.lines(report.comparison.plan.changes)
    assert line.startswith(f"update {house.tenant}/nightly: {field} from ")
    assert _lasting(await house.deployment("nightly")) == _lasting(before)
    assert await house.runs("nightly") == due
    assert len((await house.reconciler.compare()).plan.changes) == 0


def _lasting(deployment: dict[str, Any]) -> dict[str, Any]:
    """Takes away what Prefect dates at every write."""
    changing = {"updated", "concurrency_limit", "last_polled", "status"}
    lasting = {key: value for key, value in deployment.items() if key not in changing}
    lasting["schedules"] = [{**one, "updated": ""} for one in deployment["schedules"]]
    return lasting


async def test_drift_of_tags_and_queue_is_mended(house):
    await house.define("nightly", cron=DAILY, tags=["night"])
    await house.step()
    before = await house.deployment("nightly")
    await house.call(
        "PATCH",
        f"/deployments/{before['id']}",
        {"tags": [house.tag, "theirs"], "work_pool_name": "rota", "work_queue_name": "default"},
    )

    report = await house.reconciler.sweep()

    [update] = report.comparison.plan.changes.update
    assert {(one.field, one.current) for one in update.differences} == {
        ("tags", (house.tag, "theirs")),
        ("work_queue", "default"),
    }
    assert _lasting(await house.deployment("nightly")) == _lasting(before)


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_concurrency_limit_of_somebody_elses_is_removed(house, limit):
    await house.define("nightly", cron=DAILY)
    await house.step()
    path = f"/deployments/{(await house.deployment('nightly'))['id']}"
    await house.call("PATCH", path, {"concurrency_limit": limit})

    report = await house.reconciler.sweep()

    [line] = explain.lines(report.comparison.plan.changes)
    assert line.endswith(f"overlap from at most {limit} to None")
    assert (await house.deployment("nightly"))["global_concurrency_limit"] is None


async def test_a_schedule_that_somebody_added_is_removed_with_its_runs(house):
    await house.define("nightly", cron=DAILY)
    await house.step()
    before, due = await house.deployment("nightly"), await house.runs("nightly")
    foreign = {"cron": "0 9 * * *", "timezone": "UTC"}
    path = f"/deployments/{before['id']}/schedules"
    await house.call("POST", path, [{"schedule": foreign, "active": True}])
    await house.call("POST", f"/deployments/{before['id']}/schedule", {})
    assert len(await house.runs("nightly")) > len(due)

    await house.reconciler.sweep()

    assert [one["id"] for one in (await house.deployment("nightly"))["schedules"]] == [
        before["schedules"][0]["id"]
    ]
    assert await house.runs("nightly") == due


async def test_a_schedule_that_somebody_deleted_is_made_again(house):
    await house.define("nightly", cron=DAILY)
    await house.step()
    before, due = await house.deployment("nightly"), await house.runs("nightly")
    schedule = before["schedules"][0]["id"]
    await house.call("DELETE", f"/deployments/{before['id']}/schedules/{schedule}")
    # Not of its runs: Prefect's scheduler may be about to put back what it has read before.
    assert (await house.deployment("nightly"))["schedules"] == []

    await house.reconciler.sweep()

    assert (await _schedule(house, "nightly"))["slug"] == "definition"
    assert await house.runs("nightly") == due


async def test_a_deployment_that_somebody_deleted_is_made_again(house):
    await house.define("nightly", cron=DAILY)
    await house.step()
    due = await house.runs("nightly")
    before = await house.deployment("nightly")
    await house.call("DELETE", f"/deployments/{before['id']}")

    report = await house.reconciler.sweep()

    assert [one.action for one in report.outcomes] == ["create"]
    after = await house.deployment("nightly")
    assert await house.runs("nightly") == due
    assert str((await house.row("nightly"))["deployment_id"]) == after["id"] != before["id"]


async def test_an_edit_of_a_deployment_that_was_just_deleted_makes_it_again(house, proxy):
    await house.define("nightly", cron=DAILY)
    await house.step()
    doomed = (await house.deployment("nightly"))["id"]
    await house.change("nightly", retries=1)
    # Between the reading and the writing, which gets a 404.
    proxy.fault = lambda call: 404 if call.method == "PATCH" else None
    report = await house.step()
    assert [one.again for one in report.outcomes] == [True]
    proxy.mend()
    await house.call("DELETE", f"/deployments/{doomed}")

    await house.settle()

    assert (await house.deployment("nightly"))["job_variables"]["env"]["ROTA_RETRIES"] == "1"


# -- policies of a definition


async def test_overlap_becomes_a_limit_and_goes_again(house):
    await house.define("nightly", cron=DAILY, overlap="skip")
    await house.step()
    deployment = await house.deployment("nightly")
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"

    await house.change("nightly", overlap="queue")
    await house.step()
    deployment = await house.deployment("nightly")
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"

    await house.change("nightly", overlap="allow")
    await house.step()
    deployment = await house.deployment("nightly")
    assert deployment["global_concurrency_limit"] is None
    assert deployment["concurrency_options"] is None


async def test_retries_and_time_limit_travel_in_the_runs_environment(house):
    await house.define("nightly", cron=DAILY, job_variables={"env": {"OWN": "1"}})
    await house.step()

    await house.change("nightly", retries=3, retry_delay_seconds=7, timeout_seconds=2.5)
    await house.step()

    assert (await house.deployment("nightly"))["job_variables"]["env"] == {
        "OWN": "1",
        "ROTA_RETRIES": "3",
        "ROTA_RETRY_DELAY_SECONDS": "7",
        "ROTA_TIMEOUT_SECONDS": "2.5",
    }
    await house.change("nightly", timeout_seconds=None)
    await house.step()
    env = (await house.deployment("nightly"))["job_variables"]["env"]
    assert "ROTA_TIMEOUT_SECONDS" not in env


# -- tenants


async def test_a_suspended_tenant_stops_with_its_queue_first(house, proxy):
    await house.define("a", cron=DAILY)
    await house.define("b", cron=DAILY)
    await house.define("paused", cron=DAILY, enabled=False)
    await house.step()
    queue = f"/work_pools/rota/queues/{house.tenant}"
    proxy.mend()

    await house.sql.execute("update tenants set suspended = true")
    await house.step()

    assert proxy.writes[0] == f"PATCH /api{queue}"
    assert (await house.call("GET", queue))["is_paused"] is True
    found = await house.deployments()
    assert {name: one["paused"] for name, one in found.items()} == dict.fromkeys(found, True)
    assert await house.runs("a") == []
    assert (await house.row("a"))["next_run_at"] is None

    await house.sql.execute("update tenants set suspended = false")
    await house.step()

    assert (await house.call("GET", queue))["is_paused"] is False
    found = await house.deployments()
    assert {name for name, one in found.items() if one["paused"]} == {"paused"}
    assert await house.runs("a") != []
    assert await house.runs("paused") == []


async def test_the_queue_of_a_suspended_tenant_that_somebody_let_go_is_stopped_again(house):
    await house.define("a", cron=DAILY)
    await house.step()
    await house.sql.execute("update tenants set suspended = true")
    await house.step()
    queue = f"/work_pools/rota/queues/{house.tenant}"
    await house.call("PATCH", queue, {"is_paused": False})

    await house.reconciler.sweep()

    assert (await house.call("GET", queue))["is_paused"] is True


async def test_the_queue_that_somebody_stopped_stays_so(house):
    await house.define("a", cron=DAILY)
    await house.step()
    queue = f"/work_pools/rota/queues/{house.tenant}"
    await house.call("PATCH", queue, {"is_paused": True})

    await house.reconciler.sweep()

    assert (await house.call("GET", queue))["is_paused"] is True


async def test_what_comes_to_a_suspended_tenant_does_not_run(house):
    await house.define("old", cron=DAILY)
    await house.step()
    await house.sql.execute("update tenants set suspended = true")
    await house.define("new", cron=DAILY)

    await house.settle()

    assert (await house.deployment("new"))["paused"] is True
    assert await house.runs("new") == []


async def test_the_first_definition_of_a_tenant_that_was_suspended_before_does_not_run(house):
    await house.sql.execute("update tenants set suspended = true")
    await house.define("new", cron=DAILY)

    await house.settle()
    await house.reconciler.sweep()

    assert (await house.deployment("new"))["paused"] is True
    assert (await house.call("GET", f"/work_pools/rota/queues/{house.tenant}"))["is_paused"] is True


# -- bad rows


BAD = [
    ({"cron": "0 30 * *"}, "cron: "),
    ({"cron": "0 0 30 2 *"}, "cron: "),
    ({"cron": "@reboot"}, "cron: "),
    ({"cron": "* * * * * *"}, "cron: "),
    ({"timezone": "Europe/Berlni"}, "timezone: 'Europe/Berlni' "),
    ({"duty": "workflow_rnu"}, "duty: no duty is named 'workflow_rnu'; did you mean"),
    ({"timezone": "x" * 1_000_000}, "timezone: 'xxx"),
    ({"parameters": {}}, "parameters: 'workflow_id' is missing"),
    ({"parameters": {"workflow_id": 7}}, "parameters.workflow_id: 7 does not fit"),
    ({"parameters": {"workflow_id": "w", "imput": {}}}, "parameters.imput: "),
    ({"parameters": {"workflow_id": "w", "input": {"a": "x" * 500_000}}}, None),
    ({"work_pool": "elsewhere"}, "work_pool: Prefect has no pool 'elsewhere'"),
    ({"tags": ["rota:mine"]}, "tags: 'rota:mine' cannot be a tag"),
    ({"job_variables": {"env": "PATH"}}, "job_variables.env: "),
]


async def test_a_bad_row_gets_a_problem_and_hinders_no_other(house):
    await house.define("good-before", cron=DAILY)
    for number, (columns, _) in enumerate(BAD):
        await house.define(f"bad-{number}", **columns)
    await house.define("good-behind", cron=DAILY)

    await house.settle()

    problems = [(await house.row(f"bad-{number}"))["problem"] for number in range(len(BAD))]
    for problem, (columns, beginning) in zip(problems, BAD, strict=True):
        if beginning is None:
            assert problem is None, columns
        else:
            assert (problem or "").startswith(beginning), (problem, columns)
            assert len(problem) < 1000
    good = {"good-before", "good-behind"} | {
        f"bad-{number}" for number, (_, beginning) in enumerate(BAD) if beginning is None
    }
    assert (await house.deployments()).keys() == good
    assert await house.runs("good-behind") != []


@pytest.mark.parametrize("column", ["cron", "duty"])
async def test_a_row_that_goes_bad_keeps_its_last_good_deployment(house, column):
    await house.define("nightly", cron=DAILY)
    await house.step()
    before, due = await house.deployment("nightly"), await house.runs("nightly")

    await house.change("nightly", **{column: "nonsense"})
    await house.step()
    await house.reconciler.sweep()

    assert await house.deployment("nightly") == before
    assert await house.runs("nightly") == due
    row = await house.row("nightly")
    assert row["problem"].startswith(f"{column}: ")
    assert str(row["deployment_id"]) == before["id"]

    good = {"cron": "0 4 * * *", "duty": "workflow_run"}[column]
    await house.change("nightly", **{column: good})
    await house.step()
    assert (await house.row("nightly"))["problem"] is None


async def test_a_refusal_of_prefects_becomes_the_rows_problem(house, proxy):
    await house.define("a", cron=DAILY)
    await house.define("b", cron=DAILY)
    proxy.fault = lambda call: (
        422 if str(call) == "POST /api/deployments/" and call.body["name"].endswith(".a") else None
    )

    await house.step()

    assert (await house.row("a"))["problem"] == "Prefect answered 422: the proxy says so"
    assert (await house.deployments()).keys() == {"b"}
