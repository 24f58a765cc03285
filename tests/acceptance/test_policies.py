"""A definition's policies hold on every worker here, whatever the flow's source says."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.gateway import Gateway
from deployments.reconcile import Reconciler
from store.settings import Settings

pytestmark = [pytest.mark.acceptance, pytest.mark.wall_clock]

DUTIES = """
import asyncio, time
from pathlib import Path
from prefect import flow

@flow(retries=7)
def flaky(path: str):
    with Path(path).open("a") as log:
        log.write("try\\n")
    raise RuntimeError("not this time")

@flow(timeout_seconds=1)
async def slow(path: str, seconds: float):
    with Path(path).open("a") as log:
        log.write(f"began {time.time()}\\n")
    await asyncio.sleep(seconds)
    with Path(path).open("a") as log:
        log.write(f"ended {time.time()}\\n")

@flow
def slow_sync(seconds: float):
    for _ in range(int(seconds * 10)):
        time.sleep(0.1)
"""

NAMES = ("flaky", "slow", "slow_sync")


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Somebody's own package, which brings duties through the entry-point group."""
    root = tmp_path_factory.mktemp("package")
    (root / "probe_duties.py").write_text(DUTIES)
    info = root / "probe_duties-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-duties\nVersion: 1.0\n")
    points = "\n".join(f"{name} = probe_duties:{name}" for name in NAMES)
    (info / "entry_points.txt").write_text(f"[rota.duties]\n{points}\n")
    sys.path.insert(0, str(root))
    yield root
    sys.path.remove(str(root))


# Ended with this file: others look at runs of this pool that nobody is to take.
@pytest.fixture(scope="module", params=["process", "inline"])
def worker(
    request: pytest.FixtureRequest,
    prefect_server: str,
    prefect_home: Path,
    package: Path,
    pool: str,
) -> Iterator[None]:
    """Prefect's own process worker, then Rota's."""
    command = ["worker", "start", "--pool", pool, "--type", request.param]
    with (prefect_home / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *command],
            env=os.environ
            | {
                "PREFECT_API_URL": prefect_server,
                "PREFECT_HOME": str(prefect_home),
                "PREFECT_WORKER_QUERY_SECONDS": "2",
                "PYTHONPATH": str(package),
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    yield
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


Define = Callable[..., Any]


@pytest.fixture
async def define(engine: AsyncEngine, gateway: Gateway, worker: None) -> AsyncIterator[Define]:
    """Insert a definition by SQL and apply it; return its deployment's id."""

    async def define(duty: str, parameters: dict[str, Any], **columns: Any) -> str:
        columns |= {"tenant": "acme", "name": f"n{uuid4().hex[:12]}", "duty": duty}
        columns["parameters"] = json.dumps(parameters)
        names, values = ", ".join(columns), ", ".join(f":{name}" for name in columns)
        async with engine.begin() as connection:
            await connection.execute(
                text("insert into tenants (slug) values ('acme') on conflict do nothing")
            )
            await connection.execute(
                text(f"insert into definitions ({names}) values ({values})"),
                columns,
            )
        report = await Reconciler(engine, gateway, Settings()).sweep()
        assert not report.comparison.problems
        return str(report.outcomes[-1].deployment_id)

    return define


async def ended(gateway: Gateway, run_id: str, seconds: float = 60) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run = await gateway.run(run_id)
        if run["end_time"]:
            return run
        await asyncio.sleep(0.3)
    raise AssertionError(f"not ended in time: {run['state']}")


async def test_row_decides_how_often_a_failing_run_is_tried(
    define: Define, gateway: Gateway, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    deployment = await define("flaky", {"path": str(log)}, retries=2, retry_delay_seconds=1)
    run = await gateway.create_run(deployment, {}, None)
    assert (await ended(gateway, run["id"]))["state_name"] == "Failed"
    assert log.read_text().splitlines() == ["try"] * 3


async def test_row_without_a_time_limit_lifts_that_of_the_source(
    define: Define, gateway: Gateway, tmp_path: Path
) -> None:
    deployment = await define("slow", {"path": str(tmp_path / "log"), "seconds": 2})
    run = await gateway.create_run(deployment, {}, None)
    assert (await ended(gateway, run["id"]))["state_name"] == "Completed"


@pytest.mark.parametrize("duty", ["slow", "slow_sync"])
async def test_row_ends_a_run_that_takes_too_long(
    define: Define, gateway: Gateway, tmp_path: Path, duty: str
) -> None:
    parameters: dict[str, Any] = {"seconds": 60}
    if duty == "slow":
        parameters["path"] = str(tmp_path / "log")
    deployment = await define(duty, parameters, timeout_seconds=2)
    run = await ended(gateway, (await gateway.create_run(deployment, {}, None))["id"])
    assert run["state_name"] == "TimedOut"
    assert run["total_run_time"] < 10


@pytest.mark.parametrize(
    ("overlap", "states", "together"),
    [
        ("allow", ["Completed", "Completed"], True),
        ("skip", ["Cancelled", "Completed"], False),
        ("queue", ["Completed", "Completed"], False),
    ],
)
async def test_row_decides_whether_runs_may_overlap(
    define: Define,
    gateway: Gateway,
    tmp_path: Path,
    overlap: str,
    states: list[str],
    together: bool,
) -> None:
    log = tmp_path / "log"
    deployment = await define("slow", {"path": str(log), "seconds": 6}, overlap=overlap)
    runs = [await gateway.create_run(deployment, {}, None) for _ in range(2)]
    found = [await ended(gateway, run["id"], 120) for run in runs]
    assert sorted(run["state_name"] for run in found) == states
    began_twice_in_a_row = log.read_text().split()[::2][:2] == ["began", "began"]
    assert began_twice_in_a_row is together
