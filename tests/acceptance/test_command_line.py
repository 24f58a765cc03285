"""The `rota` command as people and programs call it: as a process, on real servers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from blocks import WorkflowService
from deployments import current
from deployments.gateway import Gateway
from store import database, roster

pytestmark = pytest.mark.acceptance

POOL = "command-line"
ROSTER = """
tenant: acme
definitions:
  - name: minutely
    duty: workflow_run
    cron: "* * * * *"
    parameters: {workflow_id: minutely, service: command-line}
  - name: on-demand
    duty: workflow_run
    parameters: {workflow_id: on-demand, service: command-line}
"""

Rota = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
async def work_pool(gateway: Gateway) -> str:
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    await gateway.create_work_pool(POOL, ProcessWorker.type, template)
    return POOL


@pytest.fixture
def environment(database_url: str, prefect_server: str, work_pool: str) -> dict[str, str]:
    known = {"ROTA_DATABASE_URL": database_url, "ROTA_WORK_POOL": work_pool, "COLUMNS": "200"}
    return {**os.environ, **known}


@pytest.fixture
async def rota(
    environment: dict[str, str], engine: AsyncEngine, gateway: Gateway
) -> AsyncIterator[Rota]:
    """Yields the command, and afterwards deletes what it made in Prefect."""

    def call(*arguments: str, given: str | None = None, **more: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "scripts.rota", *arguments],
            capture_output=True,
            text=True,
            input=given,
            env=environment | more,
            timeout=120,
            check=False,
        )

    yield call
    instance = (await roster.read(engine, [])).instance
    for one in await current.owned(gateway, instance):
        await gateway.delete(one.id)


@contextmanager
def process(*arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_a_roster_is_planned_applied_and_left_alone(rota: Rota):
    assert (
        rota("load", "-", given=ROSTER).stdout.splitlines()[-1].startswith("0 deleted, 2 created")
    )

    planned = rota("plan", "--json")
    assert planned.returncode == 2, planned.stderr
    assert json.loads(planned.stdout)["create"] == ["acme/minutely", "acme/on-demand"]

    applied = rota("apply")
    assert (applied.returncode, applied.stderr) == (0, "")
    assert applied.stdout.splitlines()[-1] == "2 done, 0 failed, 0 unchanged"

    again = rota("plan")
    assert (again.returncode, again.stdout) == (0, "2 unchanged\n")

    listed = json.loads(rota("list", "--json").stdout)
    assert [(one["reference"], one["state"]) for one in listed] == [
        ("acme/minutely", "active"),
        ("acme/on-demand", "active"),
    ]

    shown = json.loads(rota("show", "acme/minutely", "--json").stdout)
    assert len(shown["next_runs"]) == 5
    assert shown["prefect_url"].endswith(shown["deployment_id"])


def test_semaphores_tasks_are_loaded_for_a_tenant(rota: Rota):
    task = """
apiVersion: v1.0
kind: Schedule
metadata: {name: P1}
spec: {project: Project 1, branch: master, at: 0 0 * * * *, pipeline_file: .semaphore/cron.yml}
"""
    refused = rota("load", "-", given=task)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "say whose it is with `rota load --tenant`" in refused.stderr

    loaded = rota("load", "-", "--tenant", "acme", "--json", given=task)
    assert json.loads(loaded.stdout)["created"] == ["acme/p1"]

    shown = rota("show", "acme/p1").stdout
    assert "0 0 * * * (UTC, both days)" in shown
    assert "Project 1" in shown


def test_create_only_deletes_nothing(rota: Rota):
    rota("load", "-", given=ROSTER)
    rota("apply")
    rota("load", "-", "--prune", given="tenant: acme\n")
    assert json.loads(rota("apply", "--policy", "create-only", "--json").stdout)["outcomes"] == []
    [first, second] = json.loads(rota("apply", "--json").stdout)["outcomes"]
    assert {first["action"], second["action"]} == {"delete"}


def test_a_dump_is_loaded_back(rota: Rota):
    rota("load", "-", given=ROSTER)
    dumped = rota("dump").stdout
    loaded = rota("load", "-", "--prune", "--json", given=dumped)
    assert json.loads(loaded.stdout)["unchanged"] == ["acme/minutely", "acme/on-demand"]


async def test_a_run_is_started_waited_for_and_remembered(rota: Rota, environment: dict[str, str]):
    port = str(free_port())
    await WorkflowService(base_url=f"http://127.0.0.1:{port}", token="t").asave(
        "command-line", overwrite=True
    )
    rota("load", "-", given=ROSTER)
    assert "no deployment yet" in rota("run", "acme/on-demand").stderr
    rota("apply")
    rota("pause", "acme/on-demand")
    worker = ("prefect", "worker", "start", "--pool", POOL, "--name", "command-line")
    with (
        process("examples.workflow_service", "--port", port, WORKFLOW_SERVICE_TOKEN="t"),
        process(*worker, PREFECT_WORKER_QUERY_SECONDS="1"),
        process("scripts.rota", "watch", **environment),
    ):
        done = rota("run", "acme/on-demand", "--wait", "--json", "--param", "workflow_id=12a")
        said = json.loads(done.stdout)
        assert (done.returncode, said["state"]) == (0, "Completed"), done.stderr
        assert said["message"].endswith("of workflow 12a started.")

        [past] = json.loads(rota("history", "acme/on-demand", "--json").stdout)
        assert (past["id"], past["by"], past["state"]) == (said["id"], "manual", "Completed")

        found = examined(rota, patience_seconds=30)
        assert [one for one in found if one["holds"] is False] == []

    refused = rota("run", "acme/on-demand", "--param", "workflowid=x")
    assert refused.stderr == (
        "The duty takes no parameter 'workflowid'; did you mean 'workflow_id'?\n"
    )
    rota("suspend", "acme", "--reason", "bill")
    refused = rota("run", "acme/on-demand")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == ("The tenant acme is suspended; `rota unsuspend acme` lets it run.\n")


async def test_dead_letters_are_listed_replayed_and_discarded(
    rota: Rota, engine: AsyncEngine, gateway: Gateway, sql: Any
):
    rota("load", "-", given=ROSTER)
    rota("apply")
    ids = [
        str(one["id"])
        for one in await sql.fetch(
            "insert into dead_letters (tenant, definition_id, name, run_id, occurrence, trigger, "
            "parameters, first_at, last_at) select 'acme', id, name, gen_random_uuid(), now(), "
            "'schedule', '{\"workflow_id\": \"x\"}', now(), now() from definitions, "
            "generate_series(1, 3) where name = 'on-demand' returning dead_letters.id"
        )
    ]
    listed = json.loads(rota("letters", "list", "acme", "--status", "open", "--json").stdout)
    assert {one["id"] for one in listed} == {*ids}
    assert ids[0] in rota("letters", "list", "acme").stdout
    assert json.loads(rota("letters", "show", "acme", ids[0], "--json").stdout)["id"] == ids[0]

    assert rota("letters", "replay", "acme", ids[0]).stdout.startswith(f"{ids[0]}: run ")
    rota("letters", "discard", "acme", ids[1], "--note", "Done by hand.")
    refused = rota("letters", "replay", "acme", ids[1])
    assert (refused.returncode, refused.stderr) == (
        1,
        f"The dead letter {ids[1]} has been discarded.\n",
    )
    made = json.loads(rota("letters", "replay-all", "acme", "--per-minute", "6", "--json").stdout)
    assert made["replayed"].keys() == {ids[2]}
    assert "has no dead letter" in rota("letters", "show", "globex", ids[0]).stderr


def examined(rota: Rota, patience_seconds: float) -> list[dict[str, Any]]:
    """Returns what `doctor` says once all is well, or at the latest then."""
    deadline = time.monotonic() + patience_seconds
    while True:
        done = rota("doctor", "--json")
        if done.returncode == 0 or time.monotonic() > deadline:
            found: list[dict[str, Any]] = json.loads(done.stdout)
            return found


def test_doctor_says_what_is_missing(rota: Rota):
    done = rota("doctor", "--json")
    found = {one["subject"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["watch"]["holds"] is False
    assert found["watch"]["remedy"] == "start `rota watch` or `rota up`"
    assert found["scheduler"]["holds"] is None
    assert found["definitions database"]["holds"]


@pytest.mark.parametrize(
    ("arguments", "env", "expected"),
    [
        (
            ["list"],
            {"ROTA_DATABASE_URL": "postgresql://u:secret@127.0.0.1:9/x"},
            "The definitions database at postgresql+asyncpg://u:***@127.0.0.1:9/x does not answer",
        ),
        (["plan"], {"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "Prefect at http://127.0.0.1:9"),
        (["list"], {"ROTA_DATABASE_URL": "sqlite://"}, "The definitions database must be Postg"),
        (["list"], {"ROTA_PREFECT_PORT": "x"}, "ROTA_PREFECT_PORT: input should be a valid"),
        (["show", "acme/none"], {}, "There is no definition 'acme/none'; there are none yet."),
        (["load", "/none.yaml"], {}, "/none.yaml cannot be read: No such file or directory."),
        (["pause", "acme/x", "--until", "soon"], {}, "--until: 'soon' is no date and time"),
        (["suspend", "acme"], {}, "There is no tenant 'acme'; there are none yet."),
    ],
)
def test_what_is_away_or_wrong_is_one_sentence(
    rota: Rota, arguments: list[str], env: dict[str, str], expected: str
):
    done = rota(*arguments, **env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


async def test_a_database_without_tables_is_said_and_upgraded(rota: Rota, sql: Any):
    await sql.execute("drop schema public cascade")
    await sql.execute("create schema public")
    assert "make them with `rota db upgrade`" in rota("list").stderr
    assert rota("db", "upgrade").stdout == (
        f"The tables are of revision {database.newest()} now; before: none.\n"
    )
    assert rota("list").returncode == 0


def test_psql_is_opened_with_what_it_is_told(rota: Rota):
    done = rota("db", "shell", "-Atc", "select count(*) from definitions")
    assert (done.returncode, done.stdout) == (0, "0\n")


def test_a_password_is_shown_only_if_asked_for(rota: Rota):
    known = {"ROTA_DATABASE_URL": "postgresql://u:secret@h:5433/d?ssl=require"}
    assert rota("db", "url", **known).stdout == "postgresql://u:***@h:5433/d?sslmode=require\n"
    shown = rota("db", "url", "--show-password", **known).stdout
    assert shown == "postgresql://u:secret@h:5433/d?sslmode=require\n"


def test_watch_waits_for_what_is_away_and_stops_when_told(rota: Rota, environment: dict[str, str]):
    env = environment | {"ROTA_DATABASE_URL": "postgresql://u:p@127.0.0.1:9/x"}
    with process("scripts.rota", "watch", **env) as watch:
        assert watch.stdout is not None
        assert "does not answer" in watch.stdout.readline()
        watch.terminate()
        assert watch.wait(timeout=10) == 0
        assert "Stopped." in watch.stdout.read()


async def test_the_block_leads_to_the_database(rota: Rota, database_url: str):
    from prefect_sqlalchemy import AsyncSqlAlchemyConnector
    from sqlalchemy.engine import make_url

    own = make_url(database_url)
    connection = {
        "driver": "postgresql+asyncpg",
        "username": own.username,
        "database": own.database,
        "query": {"host": str(own.query["host"])},
    }
    block = AsyncSqlAlchemyConnector.model_validate({"connection_info": connection})
    await block.asave("rota", overwrite=True)
    try:
        said = rota("db", "url", ROTA_DATABASE_URL="")
        assert own.database is not None
        assert own.database in said.stdout, said.stderr
    finally:
        await AsyncSqlAlchemyConnector.adelete("rota")
