"""Jobs over HTTP, and by plain SQL beside it."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from store import jobs as stored

RUN = "3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60"
COUNTS = ("queued", "running", "completed", "failed", "cancelled", "total")


@pytest.fixture
def jobs(acme: str) -> str:
    return f"/tenants/{acme}/jobs"


async def queue(api: Any, jobs: str, name: str = "export", **fields: Any) -> dict[str, Any]:
    body = {"name": name, "command": "true", **fields}
    answer = await api.post(jobs, "editor", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def start(api: Any, jobs: str, name: str = "export", **said: Any) -> dict[str, Any]:
    """Asks to begin, as a run does that watch has made."""
    body = {"run_id": RUN, "attempt": 1, "execution": str(uuid4()), **said}
    answer = await api.post(f"{jobs}/{name}/start", "worker", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()) | {"execution": body["execution"]}


async def finish(
    api: Any, jobs: str, execution: str, name: str = "export", **said: Any
) -> dict[str, Any]:
    body = {"execution": execution, "exit_code": 0, **said}
    answer = await api.post(f"{jobs}/{name}/finish", "worker", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def one(api: Any, jobs: str, name: str = "export") -> dict[str, Any]:
    return dict((await api.get(f"{jobs}/{name}", "viewer")).json())


# -- queueing


async def test_nobody_but_workers_learns_what_a_job_s_environment_holds(api, jobs):
    await queue(api, jobs, environment={"API_KEY": "s3cret"})
    body = {"run_id": RUN, "attempt": 1, "execution": str(uuid4())}
    answer = await api.post(f"{jobs}/export/start", "editor", json=body)
    assert (answer.status_code, "s3cret" in answer.text) == (403, False)
    assert (await start(api, jobs))["environment"] == {"API_KEY": "s3cret"}


async def test_a_job_is_queued_with_what_it_was_given(api, jobs, acme):
    made = await queue(
        api,
        jobs,
        command="./export.sh",
        environment={"REGION": "eu", "API_KEY": "s3cret"},
        directory="/srv",
        priority=7,
        timeout_seconds=60,
        retries=2,
        on_lost="fail",
    )

    assert made["status"] == "queued"
    assert made["created_by"] == "editor"
    assert made["variables"] == ["API_KEY", "REGION"]
    by_id = await api.get(f"{jobs}/{made['id']}", "viewer")
    assert by_id.json() == await one(api, jobs) == made
    assert "s3cret" not in by_id.text


async def test_the_location_of_a_new_job_leads_to_it(api, jobs):
    answer = await api.post(jobs, "editor", json={"name": "a b", "command": "true"})

    assert (await api.get(answer.headers["Location"])).json() == answer.json()


async def test_a_row_by_plain_sql_is_like_one_by_the_api(api, jobs, acme, sql):
    made = await queue(api, jobs)
    await sql.execute(
        "insert into jobs (tenant, name, command) values ($1, 'by-sql', 'true')", acme
    )

    by_sql = await one(api, jobs, "by-sql")

    differing = {name for name in made if made[name] != by_sql[name]}
    assert differing == {"id", "name", "queued_at", "created_at", "updated_at", "created_by"}


async def test_a_name_that_is_taken_is_a_conflict(api, jobs):
    await queue(api, jobs)

    answer = await api.post(jobs, "editor", json={"name": "export", "command": "false"})

    assert answer.status_code == 409
    assert answer.json()["errors"] == [{"field": "name", "detail": "it is taken"}]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"command": ""}, "command"),
        ({"command": "echo \0"}, "command"),
        ({"priority": 10}, "priority"),
        ({"retries": -1}, "retries"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"directory": "here"}, "directory"),
        ({"environment": {"A B": "c"}}, "environment.A B.[key]"),
        ({"environment": {"A": 1}}, "environment.A"),
        ({"on_lost": "ignore"}, "on_lost"),
        ({"status": "running"}, "status"),
    ],
)
async def test_what_does_not_fit_is_refused_by_its_field(api, jobs, fields, field):
    answer = await api.post(jobs, "editor", json={"name": "a", "command": "true", **fields})

    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("name", "a/b", "name: 1 to 255"),
        ("command", "", "command: 1 byte"),
        ("priority", 10, "priority: 0 to 9"),
        ("environment", '{"A B": "c"}', "environment: texts by names"),
        ("environment", '{"A": 1}', "environment: texts by names"),
        ("directory", "here", "directory: a path"),
        ("status", "running", "status: a job runs when a worker has begun it"),
    ],
)
async def test_plain_sql_is_held_to_the_same(acme, sql, column, value, said):
    row = {"tenant": acme, "name": "a", "command": "true", column: value}
    marks = ", ".join(f"${number + 1}" for number in range(len(row)))

    with pytest.raises(asyncpg.CheckViolationError, match=said):
        await sql.execute(f"insert into jobs ({', '.join(row)}) values ({marks})", *row.values())


@pytest.mark.parametrize("status", ["completed", "failed"])
@pytest.mark.parametrize("before", ["queued", "running"])
async def test_only_its_worker_says_by_sql_or_else_that_a_job_has_ended(
    api, jobs, acme, sql, before, status
):
    await queue(api, jobs)
    if before == "running":
        await sql.execute(
            "update jobs set status = 'running', execution = gen_random_uuid(), started_at = now()"
        )

    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="for its worker to say"):
        await sql.execute("update jobs set status = $1", status)

    assert await sql.fetchval("select status from jobs") == before


async def test_nobody_writes_by_hand_that_a_job_runs(api, jobs, acme, sql):
    await queue(api, jobs)
    await sql.execute("update jobs set execution = gen_random_uuid(), started_at = now()")

    said = "status: a job runs when a worker has begun it"
    with pytest.raises(asyncpg.CheckViolationError, match=said):
        await sql.execute("update jobs set status = 'running'")
    with pytest.raises(asyncpg.CheckViolationError, match=said):
        await sql.execute(
            "insert into jobs (tenant, name, command, status, execution, started_at) "
            "values ($1, 'b', 'true', 'running', gen_random_uuid(), now())",
            acme,
        )


async def test_a_job_that_is_written_as_ended_has_ended_then(acme, sql):
    row = await sql.fetchrow(
        "insert into jobs (tenant, name, command, status) values ($1, 'a', 'true', 'completed') "
        "returning finished_at",
        acme,
    )
    assert row["finished_at"] is not None


async def test_the_definition_of_jobs_stays_while_jobs_wait(api, jobs, acme, sql):
    await queue(api, jobs)
    definition = f"/tenants/{acme}/definitions/jobs"

    answer = await api.delete(definition, "editor")
    assert answer.status_code == 422
    said = f"name: jobs wait that run by the definition {acme}/jobs"
    assert said in answer.json()["detail"]
    for written in ("delete from definitions", "update definitions set duty = 'cleaner'"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=said):
            await sql.execute(written)

    await sql.execute("update jobs set status = 'cancelled'")
    assert (await api.delete(definition, "editor")).status_code == 204


async def test_a_tenant_goes_with_the_jobs_that_wait(api, jobs, acme, sql):
    await queue(api, jobs)

    await sql.execute("delete from tenants")

    assert await sql.fetchval("select count(*) from jobs") == 0


def test_a_list_reads_neither_outputs_nor_the_values_of_variables():
    read = {column.name for column in stored.rows("acme").selected_columns}
    assert "variables" in read
    assert not read & {"output", "environment"}


async def test_the_first_job_brings_the_definition_that_jobs_run_by(api, jobs, acme, sql):
    await queue(api, jobs)
    await queue(api, jobs, "another")

    rows = await sql.fetch("select name, duty, cron from definitions where tenant = $1", acme)
    assert [tuple(row) for row in rows] == [("jobs", "run_job", None)]


async def test_a_definition_of_that_name_and_another_duty_is_in_the_way(api, jobs, acme, sql):
    await sql.execute(
        "insert into definitions (tenant, name, duty) values ($1, 'jobs', 'workflow_run')", acme
    )

    answer = await api.post(jobs, "editor", json={"name": "a", "command": "true"})

    assert answer.status_code == 422
    assert f"the definition {acme}/jobs is of another duty" in answer.json()["detail"]


async def test_a_tenant_does_not_go_while_a_job_of_its_runs(api, jobs, acme, sql):
    await queue(api, jobs)
    await start(api, jobs)

    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="is running") as refused:
        await sql.execute("delete from tenants where slug = $1", acme)

    assert "Cancel it first" in refused.value.hint
    assert await sql.fetchval("select count(*) from tenants where slug = $1", acme) == 1


# -- who queued what


async def test_who_queued_cancelled_and_requeued_what_is_in_the_audit(api, jobs, acme):
    await queue(api, jobs, environment={"KEY": "s3cret"})
    await api.post(f"{jobs}/export/cancel", "editor")
    await api.post(f"{jobs}/export/requeue", "admin")
    await api.delete(f"{jobs}/export", "editor")

    found = await api.get("/audit", "viewer", params={"tenant": acme, "kind": "job"})

    seen = [(one["operation"], one["who"], one["name"]) for one in found.json()["items"]]
    assert seen == [
        ("delete", "editor", "export"),
        ("update", "admin", "export"),
        ("update", "editor", "export"),
        ("insert", "editor", "export"),
    ]
    assert found.json()["items"][-1]["after"]["command"] == "true"
    assert "s3cret" not in found.text


async def test_what_workers_do_is_not_in_the_audit(api, jobs, acme):
    await queue(api, jobs, retries=1)
    begun = await start(api, jobs)
    await finish(api, jobs, begun["execution"], exit_code=1)

    found = await api.get("/audit", "viewer", params={"tenant": acme, "kind": "job"})

    assert [one["operation"] for one in found.json()["items"]] == ["insert"]


# -- lists and figures


async def test_the_list_is_the_latest_first_and_by_status_and_name(api, jobs):
    for name in ("a1", "a2", "b1"):
        await queue(api, jobs, name)
    await api.post(f"{jobs}/a2/cancel", "editor")

    async def names(**query: Any) -> list[str]:
        return [
            one["name"] for one in (await api.get(jobs, "viewer", params=query)).json()["items"]
        ]

    assert await names() == ["b1", "a2", "a1"]
    assert await names(status="queued") == ["b1", "a1"]
    assert await names(status=["queued", "cancelled"], q="A") == ["a2", "a1"]
    first = (await api.get(jobs, "viewer", params={"limit": 2})).json()
    second = (await api.get(first["next"], "viewer")).json()
    assert [one["name"] for one in first["items"] + second["items"]] == ["b1", "a2", "a1"]


async def test_the_five_counts_are_zero_where_there_are_none(api, acme):
    found = (await api.get("/stats", f"viewer@{acme}")).json()["jobs"]

    assert found == dict.fromkeys(COUNTS, 0)


async def test_the_counts_are_of_each_status(api, jobs, acme):
    for name in ("a", "b", "c", "d"):
        await queue(api, jobs, name)
    await finish(api, jobs, (await start(api, jobs, "a"))["execution"], "a")
    await finish(api, jobs, (await start(api, jobs, "b"))["execution"], "b", exit_code=1)
    await start(api, jobs, "c")

    found = (await api.get("/stats", f"viewer@{acme}")).json()["jobs"]

    assert found == dict(zip(COUNTS, (1, 1, 1, 1, 0, 4), strict=True))


async def test_two_jobs_may_run_at_once_until_somebody_says_otherwise(api, acme, sql):
    config = f"/tenants/{acme}/config"
    assert (await api.get(config, "viewer")).json() == {"max_concurrent_jobs": 2}

    await api.put(config, "editor", json={"max_concurrent_jobs": 7})

    assert (await api.get(config, "viewer")).json() == {"max_concurrent_jobs": 7}
    await sql.execute("update settings set value = '9' where tenant = $1", acme)
    assert (await api.get(config, "viewer")).json() == {"max_concurrent_jobs": 9}


@pytest.mark.parametrize("value", [-1, 1001, 1.5, "2", None])
async def test_a_limit_that_is_none_is_refused(api, acme, sql, value):
    answer = await api.put(f"/tenants/{acme}/config", "editor", json={"max_concurrent_jobs": value})

    assert answer.status_code == 422
    with pytest.raises(asyncpg.CheckViolationError, match="max_concurrent_jobs: a whole number"):
        await sql.execute(
            "insert into settings (tenant, key, value) values "
            "($1, 'max_concurrent_jobs', to_jsonb($2::text)::text::jsonb)",
            acme,
            str(value),
        )


# -- beginning and ending


async def test_no_more_begin_than_may_however_many_ask_at_once(api, jobs, acme):
    await api.put(f"/tenants/{acme}/config", "editor", json={"max_concurrent_jobs": 3})
    for number in range(12):
        await queue(api, jobs, f"j{number}")

    asked = await asyncio.gather(*(start(api, jobs, f"j{number}") for number in range(12)))

    assert sorted(one["decision"] for one in asked) == ["go"] * 3 + ["wait"] * 9
    assert {one["why"] for one in asked} == {"", "3 jobs are running, and 3 may"}
    begun = next(n for n, one in enumerate(asked) if one["decision"] == "go")
    waiting = next(n for n, one in enumerate(asked) if one["decision"] == "wait")
    await finish(api, jobs, asked[begun]["execution"], f"j{begun}")
    assert (await start(api, jobs, f"j{waiting}"))["decision"] == "go"


async def test_a_lower_limit_lets_those_go_on_that_run(api, jobs, acme):
    for name in ("a", "b", "c"):
        await queue(api, jobs, name)
    begun = [await start(api, jobs, name) for name in ("a", "b")]
    await api.put(f"/tenants/{acme}/config", "editor", json={"max_concurrent_jobs": 1})

    await finish(api, jobs, begun[0]["execution"], "a")
    assert (await start(api, jobs, "c"))["decision"] == "wait"
    await finish(api, jobs, begun[1]["execution"], "b")
    assert (await start(api, jobs, "c"))["decision"] == "go"


async def test_the_worker_is_told_the_environment_when_it_goes_and_not_before(api, jobs, acme):
    await queue(api, jobs, environment={"KEY": "s3cret"})
    await api.put(f"/tenants/{acme}/config", "editor", json={"max_concurrent_jobs": 0})
    assert (await start(api, jobs))["environment"] == {}

    await api.put(f"/tenants/{acme}/config", "editor", json={"max_concurrent_jobs": 1})
    assert (await start(api, jobs))["environment"] == {"KEY": "s3cret"}


async def test_nothing_begins_while_the_tenant_is_suspended_or_the_definition_paused(
    api, jobs, acme, sql
):
    await queue(api, jobs)

    await sql.execute("update tenants set suspended = true where slug = $1", acme)
    assert (await start(api, jobs))["why"] == "the tenant is suspended"
    await sql.execute("update tenants set suspended = false where slug = $1", acme)
    for column, value in (("enabled", "false"), ("paused_until", "'infinity'")):
        await sql.execute(f"update definitions set {column} = {value} where tenant = $1", acme)
        assert (await start(api, jobs))["why"] == f"the definition {acme}/jobs is paused"
        await sql.execute("update definitions set enabled = true, paused_until = null")

    assert (await start(api, jobs))["decision"] == "go"


async def test_whoever_asks_again_because_the_answer_was_lost_is_answered_the_same(api, jobs):
    await queue(api, jobs)
    begun = await start(api, jobs)

    assert (await start(api, jobs, execution=begun["execution"]))["decision"] == "go"
    done = await finish(api, jobs, begun["execution"], output="out\n")
    assert await finish(api, jobs, begun["execution"], output="out\n") == done
    assert (done["status"], done["exit_code"], done["output"]) == ("completed", 0, "out\n")


async def test_a_run_that_is_not_the_job_s_is_told_so(api, jobs):
    await queue(api, jobs)
    assert (await start(api, jobs, attempt=2))["decision"] == "gone"

    begun = await start(api, jobs)
    another = await start(api, jobs, run_id=str(uuid4()))
    assert another["decision"] == "gone"

    await finish(api, jobs, begun["execution"])
    assert (await start(api, jobs))["why"] == "it is completed"


async def test_a_run_that_begins_anew_has_lost_its_worker_and_begins_again(api, jobs):
    await queue(api, jobs)
    first = await start(api, jobs)
    second = await start(api, jobs)

    assert second["decision"] == "go"
    late = await api.post(
        f"{jobs}/export/finish", "worker", json={"execution": first["execution"], "exit_code": 1}
    )
    assert late.status_code == 409
    assert (await finish(api, jobs, second["execution"]))["status"] == "completed"


async def test_a_job_that_is_not_to_run_twice_fails_when_its_worker_is_lost(api, jobs):
    await queue(api, jobs, on_lost="fail")
    await start(api, jobs)

    assert (await start(api, jobs))["decision"] == "gone"

    row = await one(api, jobs)
    assert (row["status"], row["error"]) == (
        "failed",
        "its worker was lost or stopped while it ran",
    )


async def test_a_job_that_kills_its_workers_fails_in_the_end(api, jobs):
    await queue(api, jobs)

    decisions = [(await start(api, jobs))["decision"] for _ in range(12)]

    assert decisions == ["go"] * 11 + ["gone"]
    said = "its worker was lost or stopped while it ran (for the 11th time)"
    assert (await one(api, jobs))["error"] == said


async def test_a_job_that_fails_is_queued_again_as_often_as_it_may(api, jobs):
    await queue(api, jobs, retries=2)
    statuses = []
    for attempt in (1, 2, 3):
        begun = await start(api, jobs, attempt=attempt, run_id=str(uuid4()))
        statuses.append((await finish(api, jobs, begun["execution"], exit_code=9))["status"])

    assert statuses == ["queued", "queued", "failed"]
    assert (await one(api, jobs))["exit_code"] == 9


async def test_a_command_that_was_ended_for_its_time_has_failed_whatever_its_exit_code(api, jobs):
    await queue(api, jobs)
    begun = await start(api, jobs)

    done = await finish(api, jobs, begun["execution"], exit_code=0, error="It took too long.")

    assert (done["status"], done["error"]) == ("failed", "It took too long.")


async def test_output_is_kept_as_far_as_there_is_room_for_it(api, jobs):
    await queue(api, jobs)
    begun = await start(api, jobs)

    done = await finish(api, jobs, begun["execution"], output="ä" * 65536)

    assert done["output"] == "ä" * 32768


# -- cancelling, requeueing, deleting


@pytest.mark.parametrize("by_sql", [False, True])
async def test_a_queued_job_is_cancelled_at_once(api, jobs, sql, by_sql):
    await queue(api, jobs)

    if by_sql:
        await sql.execute("update jobs set status = 'cancelled'")
    else:
        await api.post(f"{jobs}/export/cancel", "editor")

    row = await one(api, jobs)
    assert row["status"] == "cancelled"
    assert row["finished_at"] is not None
    assert (await start(api, jobs))["decision"] == "gone"


@pytest.mark.parametrize("by_sql", [False, True])
async def test_a_running_job_keeps_its_place_until_its_worker_has_ended_it(api, jobs, sql, by_sql):
    await queue(api, jobs, retries=3)
    begun = await start(api, jobs)

    if by_sql:
        await sql.execute("update jobs set status = 'cancelled'")
    else:
        await api.post(f"{jobs}/export/cancel", "editor")

    row = await one(api, jobs)
    assert (row["status"], row["cancel_requested_at"] is not None) == ("running", True)
    done = await finish(api, jobs, begun["execution"], interrupted=True, exit_code=143, output="x")
    assert (done["status"], done["output"]) == ("cancelled", "x")


async def test_a_command_that_ends_well_before_it_is_cancelled_is_completed(api, jobs):
    await queue(api, jobs)
    begun = await start(api, jobs)
    await api.post(f"{jobs}/export/cancel", "editor")

    assert (await finish(api, jobs, begun["execution"]))["status"] == "completed"


async def test_one_that_was_interrupted_for_another_reason_is_for_watch_to_judge(api, jobs):
    await queue(api, jobs)
    begun = await start(api, jobs)

    done = await finish(api, jobs, begun["execution"], interrupted=True, exit_code=143)

    assert done["status"] == "running"


@pytest.mark.parametrize("by_sql", [False, True])
async def test_a_job_that_has_ended_can_be_queued_once_more(api, jobs, sql, by_sql):
    first = await queue(api, jobs)
    begun = await start(api, jobs)
    await finish(api, jobs, begun["execution"], exit_code=5, output="bad\n")

    if by_sql:
        await sql.execute("update jobs set status = 'queued'")
    else:
        await api.post(f"{jobs}/export/requeue", "editor")

    row = await one(api, jobs)
    assert (row["status"], row["attempt"], row["run_id"]) == ("queued", 2, None)
    assert (row["exit_code"], row["output"], row["finished_at"]) == (None, None, None)
    assert row["queued_at"] > first["queued_at"]
    assert row["last_run"] is not None


async def test_what_runs_is_neither_queued_nor_deleted(api, jobs, sql):
    await queue(api, jobs)
    await start(api, jobs)

    assert (await api.post(f"{jobs}/export/requeue", "editor")).status_code == 409
    assert (await api.delete(f"{jobs}/export", "editor")).status_code == 409
    for statement in ("update jobs set status = 'queued'", "delete from jobs"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="is running"):
            await sql.execute(statement)


async def test_what_is_queued_or_gone_stays_so(api, jobs):
    made = await queue(api, jobs)
    assert (await api.post(f"{jobs}/export/requeue", "editor")).json() == made
    assert (await api.delete(f"{jobs}/export", "editor")).status_code == 204
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("POST", "/requeue"),
    ):
        assert (await api.call(method, f"{jobs}/export{path}")).status_code == 404


async def test_a_job_does_not_get_another_name(api, jobs, sql):
    await queue(api, jobs)

    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="cannot become"):
        await sql.execute("update jobs set name = 'other'")


async def test_a_tenant_that_is_not_there_has_no_jobs(api):
    for path in ("jobs", "config"):
        assert (await api.get(f"/tenants/nobody/{path}")).status_code == 404
    job = {"name": "a", "command": "true"}
    assert (await api.post("/tenants/nobody/jobs", json=job)).status_code == 404
    config = {"max_concurrent_jobs": 3}
    assert (await api.put("/tenants/nobody/config", json=config)).status_code == 404
