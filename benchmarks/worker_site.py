"""A worker under test, the runs that it is given, and what it makes of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import psutil
from prefect.client.orchestration import PrefectClient
from prefect.states import Scheduled

from benchmarks.edits import Latencies
from benchmarks.processes import PROJECT, BenchmarkError, python, running
from benchmarks.sample_flows import STARTS
from benchmarks.servers import Servers

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Watch:
    """What a process and its children hold at most, while the block lasts."""

    def __init__(self, pid: int) -> None:
        self.threads = 0
        self.children = 0
        self.tree_mb = 0.0
        self.own_mb = 0.0
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def _look(self) -> None:
        rounds = 0
        while not self._over.wait(0.1):
            with suppress(psutil.Error, OSError, StopIteration):
                self.threads = max(self.threads, self._process.num_threads())
                self.own_mb = self._peak_mb()
                if rounds % 10 == 0:  # it looks at every process of the machine
                    self._look_at_children()
            rounds += 1

    def _look_at_children(self) -> None:
        children = self._process.children(recursive=True)
        self.children = max(self.children, len(children))
        held = self._process.memory_info().rss
        for child in children:
            with suppress(psutil.Error):
                held += child.memory_info().rss
        self.tree_mb = max(self.tree_mb, held / 1e6)

    def _peak_mb(self) -> float:
        """Return the kernel's own peak, which begins anew with each program."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """Return what a process and its children have used, those that have ended included."""
    process = psutil.Process(pid)
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            total += sum(one.cpu_times()[:4])  # user, system, and both of those waited for
    return total


@dataclass(frozen=True)
class Outcome:
    """What became of a batch of runs.

    Attributes:
        lateness: Seconds from each run's instant to its first line, ascending.
        ended: When the last run was seen to have ended, in seconds since 1970.
        lost: How many runs did not complete.
        doubled: How many starts there were beyond the first of each run.
        together: How many runs were open at once, at most, as far as was looked.
    """

    lateness: Latencies
    ended: float
    lost: int
    doubled: int
    together: int


class Site:
    """One worker, its deployment, and its notes."""

    def __init__(
        self,
        servers: Servers,
        client: PrefectClient,
        database: asyncpg.Connection,
        process: subprocess.Popen[bytes],
        watch: Watch,
        name: str,
        log: Path,
    ) -> None:
        self.servers = servers
        self.process = process
        self.watch = watch
        self.log = log
        self._client = client
        self._database = database
        self._name = name
        self._deployment: UUID | None = None

    def cpu(self) -> tuple[float, float]:
        """Return the CPU seconds of the worker with its children, and of Prefect's server."""
        return cpu_seconds(self.process.pid), cpu_seconds(self.servers.server_pid)

    async def deploy(self, flow: str, pool: str, parameters: dict[str, object]) -> None:
        """Make the deployment that the runs are of."""
        flow_id = await self._client.create_flow_from_name(flow)
        self._deployment = await self._client.create_deployment(
            flow_id,
            self._name,
            entrypoint=f"benchmarks.sample_flows.{flow}",
            work_pool_name=pool,
            parameters=parameters,
            enforce_parameter_schema=False,
        )

    async def schedule(self, due: Sequence[float], lead: float) -> dict[str, float]:
        """Create a run for each instant; return the instants by the runs' ids.

        Raises:
            BenchmarkError: The server took so long that the first came closer than `lead`.
        """
        gate = asyncio.Semaphore(4)
        created: dict[str, float] = {}

        async def create(instant: float) -> None:
            async with gate:
                assert self._deployment is not None
                state = Scheduled(scheduled_time=datetime.fromtimestamp(instant, UTC))  # type: ignore[var-annotated]
                run = await self._client.create_flow_run_from_deployment(
                    self._deployment, state=state
                )
                created[str(run.id)] = instant

        async with asyncio.TaskGroup() as group:
            for instant in due:
                group.create_task(create(instant))
        if time.time() > min(due) - lead:
            raise BenchmarkError(
                f"creating {len(due)} runs took too long; the machine is busy, try again"
            )
        return created

    async def outcome(self, created: dict[str, float], patience_seconds: float) -> Outcome:
        """Wait until all runs have ended, and return how they did.

        Raises:
            BenchmarkError: The worker ended, or they did not within `patience_seconds`.
        """
        deadline = time.monotonic() + patience_seconds
        together = 0
        while True:
            states = await self._states()
            ended = time.time()
            together = max(together, states.get("RUNNING", 0))
            if sum(states.get(state, 0) for state in FINAL) == len(created):
                break
            if self.process.poll() is not None or time.monotonic() > deadline:
                what = "runs did not end" if self.process.poll() is None else "the worker ended"
                raise BenchmarkError(f"{self._name}: {what}; {states}; log: {_tail(self.log)}")
            await asyncio.sleep(0.1)
        starts = self._starts()
        late = sorted(began[0] - created[id_] for id_, began in starts.items() if id_ in created)
        return Outcome(
            lateness=Latencies(late),
            ended=ended,
            lost=len(created) - states.get("COMPLETED", 0),
            doubled=sum(len(began) - 1 for began in starts.values()),
            together=together,
        )

    async def quiet(self, seconds: float = 60) -> None:
        """Wait for the worker's children to end, whose CPU is complete by then."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and psutil.Process(self.process.pid).children():  # noqa: ASYNC110
            await asyncio.sleep(0.2)

    async def _states(self) -> dict[str, int]:
        rows = await self._database.fetch(
            "select state_type::text as state, count(*) as runs from flow_run "
            "where deployment_id = $1 group by state_type",
            self._deployment,
        )
        return {row["state"]: row["runs"] for row in rows}

    def _starts(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for line in starts_file(self.servers, self._name).read_text().splitlines():
            id_, began = line.split()
            found.setdefault(id_, []).append(float(began))
        return {id_: sorted(began) for id_, began in found.items()}


@asynccontextmanager
async def at_work(
    servers: Servers, kind: str, name: str, api: str | None = None
) -> AsyncIterator[Site]:
    """Start a worker of `kind` on the pool of that name, and yield once it is there.

    Args:
        servers: What it works with.
        kind: The type of worker, such as `inline`.
        name: What its logs and its deployment are called.
        api: The address that it is given, if it is not the server's own.
    """
    starts = starts_file(servers, name)
    starts.touch()
    env = {
        **servers.environment(api),
        "PREFECT_HOME": str(servers.directory / f"{name}-home"),
        "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
        STARTS: str(starts),
    }
    command = python("-m", "prefect", "worker", "start", "--pool", kind, "--type", kind)
    log = servers.directory / f"{name}.log"
    began = datetime.now(UTC)
    database = await servers.prefect()
    try:
        # SIGINT is what both kinds take for a request to stop soon.
        with running(command, env, log, stop=signal.SIGINT) as process, Watch(process.pid) as watch:
            await _until_heard(database, kind, began, process, log)
            async with PrefectClient(servers.api) as client:
                yield Site(servers, client, database, process, watch, name, log)
    finally:
        await database.close()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def starts_file(servers: Servers, name: str) -> Path:
    return servers.directory / f"{name}.starts"


async def _until_heard(
    database: asyncpg.Connection,
    pool: str,
    began: datetime,
    process: subprocess.Popen[bytes],
    log: Path,
) -> None:
    query = (
        "select exists (select from worker join work_pool on work_pool.id = work_pool_id "
        "where work_pool.name = $1 and last_heartbeat_time > $2)"
    )
    deadline = time.monotonic() + 60
    while not await database.fetchval(query, pool, began):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchmarkError(f"the {pool} worker does not start: {_tail(log)}")
        await asyncio.sleep(0.1)
