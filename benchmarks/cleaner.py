"""What `cleaner` takes for 20,000 runs of 1,000 definitions, in Prefect's own SQLite database.

The runs are written straight into the database, each with its states, a task run, log lines and an
artifact, as copies of one that went through the API.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson

from benchmarks.apply import _directory
from benchmarks.processes import (
    BenchmarkError,
    Usage,
    environment,
    free_port,
    measure,
    python,
    running,
    wait_until,
)
from benchmarks.report import Figures, Machine, document, markdown, say
from benchmarks.servers import _embedded_postgres
from benchmarks.worker_site import cpu_seconds
from store import database

TENANT, TAG = "acme", "rota:bench"
KEEP = 10
TABLES = ("flow_run", "flow_run_state", "task_run", "log", "artifact")

# In a process of its own, as a worker runs it; the tag is what a definition's run would have.
CLEAN = f"""
import asyncio, json, sys
from prefect import tags
from blocks.records import Records
from flows.cleaner import cleaner
async def clean():
    await Records(base_url=sys.argv[1], token=sys.argv[2]).asave("default", overwrite=True)
    with tags({TAG!r}):
        print(json.dumps(await cleaner(tenant={TENANT!r})))
asyncio.run(clean())
"""


@dataclass(frozen=True)
class House:
    """Prefect's server and Rota's API, both private and new.

    Attributes:
        prefect: The address of Prefect's API.
        server: The process of its server.
        base: The file of its database.
        api: The address of Rota's.
        token: To call that with.
        env: The environment of whoever calls either.
    """

    prefect: str
    server: int
    base: Path
    api: str
    token: str
    env: dict[str, str]


@contextmanager
def house(directory: Path, definitions: int) -> Iterator[House]:
    """Start everything below `directory`; there are so many definitions, each with a deployment.

    Raises:
        BenchmarkError: Something does not start.
    """
    port, own = free_port(), free_port()
    prefect, api = f"http://127.0.0.1:{port}/api", f"http://127.0.0.1:{own}"
    home = directory / "prefect"
    env = environment(
        PREFECT_HOME=str(home),
        PREFECT_API_URL=prefect,
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        # Once a day, else.
        PREFECT_SERVER_SERVICES_DB_VACUUM_ORPHAN_CLEANUP_LOOP_SECONDS="60",
    )
    server = python("-c", f"from scripts.server import serve; serve('127.0.0.1', {port})")
    log = directory / "prefect.log"
    with running(server, env, log) as process, _embedded_postgres(directory) as url:
        wait_until(lambda: _answers(f"{prefect}/health"), "Prefect's server", 120, process, log)
        env["ROTA_DATABASE_URL"] = url.render_as_string(hide_password=False)
        env["ROTA_HOME"] = str(directory / "rota-home")
        asyncio.run(_make_definitions(url, definitions))
        serve, said = python("-m", "scripts.rota", "serve", "--port", str(own)), directory / "api"
        with running(serve, env, said) as answering:
            wait_until(lambda: _answers(f"{api}/healthz"), "the API", 60, answering, said)
            yield House(prefect, process.pid, home / "prefect.db", api, _token(env), env)


async def _make_definitions(url: Any, count: int) -> None:
    connection = await database.connect(url)
    try:
        await connection.execute("insert into tenants (slug) values ($1)", TENANT)
        await connection.execute(
            "insert into definitions (tenant, name, duty, keep_runs, run_count, deployment_id) "
            "select $1, 'd-' || n, 'workflow_run', $2, 1000, gen_random_uuid() "
            "from generate_series(1, $3) n",
            *(TENANT, KEEP, count),
        )
    finally:
        await connection.close()


def _answers(address: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(address).is_success
    return False


def _token(env: dict[str, str]) -> str:
    create = ("token", "create", "--role", "worker", "--tenant", TENANT, "--json")
    done = subprocess.run(
        python("-m", "scripts.rota", *create), env=env, capture_output=True, check=True
    )
    return str(orjson.loads(done.stdout)["token"])


def deployments(there: House) -> list[UUID]:
    """Return the ids of the definitions' deployments."""
    with httpx.Client(headers={"Authorization": f"Bearer {there.token}"}) as http:
        found, address = [], f"/api/v1/tenants/{TENANT}/retention?limit=200"
        while address:
            page = http.get(f"{there.api}{address}").raise_for_status().json()
            found += [UUID(one["deployment_id"]) for one in page["items"]]
            address = page["next"]
    return found


def seed(there: House, of: list[UUID], each: int) -> None:
    """Write so many old runs of each deployment, and as many again of a tenth that are gone."""
    template = _template(there)
    with closing(sqlite3.connect(there.base, timeout=120)) as base:
        base.row_factory = sqlite3.Row
        rows = {
            table: [
                dict(row)
                for row in base.execute(
                    f"select * from {table} where {_of(table)} = ?",
                    [template],
                )
            ]
            for table in TABLES
        }
        now = datetime.now(UTC)
        for number, deployment in enumerate(of):
            with base:
                for run in range(each):
                    _copy(base, rows, deployment, now - timedelta(days=2, hours=run))
            if number % 100 == 99:
                say(f"  {number + 1} of {len(of)} seeded")
        with base:
            for table in TABLES:
                where = f"delete from {table} where {_of(table)} = ?"
                base.execute(where, [template])


def _of(table: str) -> str:
    return "id" if table == "flow_run" else "flow_run_id"


def _template(there: House) -> str:
    """Make a run through the API, with all that a run leaves behind; return its id."""
    with httpx.Client(base_url=there.prefect, timeout=60) as http:

        def post(path: str, body: Any) -> Any:
            return http.post(path, json=body).raise_for_status().json()

        flow = post("/flows/", {"name": "workflow-run"})["id"]
        run = post("/flow_runs/", {"flow_id": flow, "tags": [TAG]})["id"]
        for state in ({"type": "RUNNING"}, {"type": "COMPLETED", "data": {"executed": 7}}):
            post(f"/flow_runs/{run}/set_state", {"state": state, "force": True})
        post("/task_runs/", {"flow_run_id": run, "task_key": "t", "dynamic_key": "0"})
        lines = [
            {
                "name": "prefect.flow_runs",
                "level": 20,
                "message": f"Line {number} of what the run says.",
                "timestamp": datetime.now(UTC).isoformat(),
                "flow_run_id": run,
            }
            for number in range(5)
        ]
        http.post("/logs/", json=lines).raise_for_status()
        post("/artifacts/", {"type": "markdown", "data": "# It", "flow_run_id": run})
    return str(run)


def _copy(
    base: sqlite3.Connection, rows: dict[str, list[Any]], deployment: UUID, ended: datetime
) -> None:
    run, at = str(uuid4()), ended.strftime("%Y-%m-%d %H:%M:%S.%f")
    states = {row["id"]: str(uuid4()) for row in rows["flow_run_state"]}
    for table in TABLES:
        for row in rows[table]:
            made = {**row, "id": states.get(row["id"]) or str(uuid4()), _of(table): run}
            if table == "flow_run":
                made |= {
                    "deployment_id": str(deployment),
                    "work_queue_name": TENANT,
                    "state_id": states[row["state_id"]],
                    "expected_start_time": at,
                    "start_time": at,
                    "end_time": at,
                }
            names = ", ".join(made)
            marks = ", ".join("?" * len(made))
            base.execute(
                f"insert into {table} ({names}) values ({marks})",
                list(made.values()),
            )


def counts(there: House) -> dict[str, int]:
    """Return how many rows Prefect's tables have."""
    with closing(sqlite3.connect(there.base, timeout=60)) as base:
        return {
            table: base.execute(f"select count(*) from {table}").fetchone()[0] for table in TABLES
        }


def clean(there: House) -> tuple[Usage, dict[str, int]]:
    """Run the duty once, in a process of its own; return what it cost, and its figures."""
    log = there.base.with_name("cleaner.log")
    usage = measure(python("-c", CLEAN, there.api, there.token), there.env, log, 3600)
    [said] = [line for line in usage.output.splitlines() if line.startswith("{")]
    return usage, orjson.loads(said)


@contextmanager
def others(there: House) -> Iterator[list[float]]:
    """Write a state of a run four times a second, as workers do; yield the seconds of each."""
    taken: list[float] = []
    over = threading.Event()

    def write() -> None:
        with httpx.Client(base_url=there.prefect, timeout=120) as http:
            flow = http.post("/flows/", json={"name": "other"}).raise_for_status().json()["id"]
            run = http.post("/flow_runs/", json={"flow_id": flow}).raise_for_status().json()["id"]
            while not over.wait(0.25):
                began = time.perf_counter()
                body = {"state": {"type": "RUNNING"}, "force": True}
                http.post(f"/flow_runs/{run}/set_state", json=body).raise_for_status()
                taken.append(time.perf_counter() - began)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def run(there: House, figures: Figures, each: int) -> None:
    """Measure everything, in order."""
    of = deployments(there)
    gone = [uuid4() for _ in of[: max(1, len(of) // 10)]]
    seed(there, [*of, *gone], each)
    before = counts(there)
    figures.add("rows before, by table", _said(before), values=dict(before))
    expected = len(of) * max(0, each - KEEP) + len(gone) * each
    with others(there) as taken:
        time.sleep(15)
    _add_waits(figures, "before", taken)
    spent = cpu_seconds(there.server)
    with others(there) as taken:
        _measure_clean(there, figures, f"{len(of):,} definitions", expected)
    _add_waits(figures, "meanwhile", taken)
    # Logs go a while later, at Prefect's leisure, and artifacts too. The duty's own runs stay.
    deadline, kept = time.monotonic() + 600, len(of) * min(each, KEEP)
    most = {"flow_run": kept + 3, "log": kept * 5 + 100, "artifact": kept * 2 + 10}
    while _beyond(left := counts(there), most) and time.monotonic() < deadline:
        time.sleep(1)
    spent = cpu_seconds(there.server) - spent
    tidy = not _beyond(left, most)
    figures.add("rows after, by table", _said(left), f"{kept:,} runs", tidy, dict(left))
    figures.add(
        "the server's CPU, until all of that was gone", f"{spent:.1f} s", values={"cpu": spent}
    )
    _measure_clean(there, figures, "once more", 0)


def _add_waits(figures: Figures, when: str, taken: list[float]) -> None:
    taken.sort()
    p50, p95, longest = (1000 * taken[int(at * (len(taken) - 1))] for at in (0.5, 0.95, 1))
    figures.add(
        f"{when}, what a worker waits for a state to be written: p50, p95, longest",
        f"{p50:.0f} ms, {p95:.0f} ms, {longest:.0f} ms",
        values={"p50_ms": p50, "p95_ms": p95, "longest_ms": longest},
    )


def _measure_clean(there: House, figures: Figures, what: str, expected: int) -> None:
    spent = cpu_seconds(there.server)
    usage, found = clean(there)
    spent = cpu_seconds(there.server) - spent
    figures.add(
        f"`cleaner`, {what}: runs deleted; seconds; CPU of it and the server; its peak",
        f"{found['runs']:,}; {usage.seconds:.1f} s ({found['runs'] / usage.seconds:.0f}/s); "
        f"{usage.cpu_seconds:.1f} s, {spent:.1f} s; {usage.peak_mb:.0f} MB",
        f"{expected:,} runs",
        found["runs"] == expected,
        {
            "seconds": usage.seconds,
            "cpu": usage.cpu_seconds,
            "server_cpu": spent,
            "peak_mb": usage.peak_mb,
            **found,
        },
    )


def _beyond(left: dict[str, int], most: dict[str, int]) -> bool:
    return any(left[table] > count for table, count in most.items())


def _said(found: dict[str, int]) -> str:
    return ", ".join(f"{table} {count:,}" for table, count in found.items())


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench cleaner", description=__doc__)
    parser.add_argument("--definitions", type=int, default=1000, help="so many (1000)")
    parser.add_argument("--runs", type=int, default=20, help="of each definition (20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", action="store_true", help="keep logs and databases")
    options = parser.parse_args()
    machine = Machine.this(shlex.join(["scripts/bench", "cleaner", *sys.argv[1:]]))
    figures = Figures()
    try:
        with (
            _directory(options.keep) as directory,
            house(directory, options.definitions) as there,
        ):
            run(there, figures, options.runs)
    except BenchmarkError as error:
        say(f"scripts/bench cleaner: {error}")
        return 1
    print(markdown(figures, machine))
    print(f"\nLoad at the end: {os.getloadavg()[0]:.2f}.")
    if options.json:
        found = document(figures, machine)
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
