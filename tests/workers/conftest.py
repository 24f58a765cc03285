"""Workers as processes, and the runs that they are given."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun

from workers.inline import InlineWorker

HERE = Path(__file__).parent
ENDED = {"Completed", "Failed", "TimedOut", "Crashed", "Cancelled"}

_numbers = count(1)


PREFECT_WORKER = (sys.executable, "-m", "prefect", "worker", "start", "--type", "inline")


class Worker:
    """A worker in a process of its own."""

    def __init__(
        self,
        pool: str,
        url: str,
        home: Path,
        options: Iterable[str],
        command: Iterable[str],
        **env: str,
    ) -> None:
        self.name = f"w{next(_numbers)}"
        self.log = home / f"{self.name}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--pool", pool, "--name", self.name, *options],
                env={
                    **os.environ,
                    "PREFECT_HOME": str(home),
                    "PREFECT_API_URL": url,
                    "PYTHONPATH": str(HERE),
                    "KEEP": str(home / "keep"),
                    **env,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text()

    def ready(self, seconds: float = 60) -> "Worker":
        self.says("started!", seconds)
        return self

    def says(self, what: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while what not in self.text():
            assert self.process.poll() is None or what in self.text(), self.text()
            assert time.monotonic() < deadline, f"{what!r} is not in\n{self.text()}"
            time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Ends it as a power loss would: without a word, and without its children."""
        self.send(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def usage(self) -> psutil.Process:
        return psutil.Process(self.process.pid)


class Yard:
    """A work pool with its workers, and what has been seen of its runs."""

    def __init__(self, client: PrefectClient, pool: str, url: str, home: Path) -> None:
        self.client = client
        self.pool = pool
        self.url = url
        self.home = home
        self.workers: list[Worker] = []

    def start(self, *options: str, command: Iterable[str] = PREFECT_WORKER, **env: str) -> Worker:
        worker = Worker(self.pool, self.url, self.home, options, command, **env)
        self.workers.append(worker)
        return worker

    def end(self) -> None:
        for worker in self.workers:
            worker.end()

    async def deploy(self, flow: str, **options: Any) -> UUID:
        flow_id = await self.client.create_flow_from_name(flow)
        return await self.client.create_deployment(
            flow_id=flow_id,
            name=f"{self.pool}.{flow}.{next(_numbers)}",
            **{"entrypoint": f"sample_flows.{flow}", "work_pool_name": self.pool, **options},
        )

    async def run(
        self, flow: str, parameters: Mapping[str, Any] | None = None, times: int = 1, **options: Any
    ) -> list[UUID]:
        """Makes runs of a flow, due now, and returns their ids."""
        deployment = await self.deploy(flow, **options)
        return [
            (
                await self.client.create_flow_run_from_deployment(
                    deployment, parameters=dict(parameters or {})
                )
            ).id
            for _ in range(times)
        ]

    async def states(self, runs: Iterable[UUID]) -> dict[UUID, str]:
        return {id_: _name(await self.client.read_flow_run(id_)) for id_ in runs}

    async def until(
        self, runs: Iterable[UUID], names: set[str] = ENDED, seconds: float = 30
    ) -> list[FlowRun]:
        """Waits until all the runs are in one of these states, and returns them."""
        waiting = list(runs)
        found: dict[UUID, FlowRun] = {}
        deadline = time.monotonic() + seconds
        while left := [id_ for id_ in waiting if id_ not in found]:
            for id_ in left:
                with suppress(httpx.HTTPError):
                    run = await self.client.read_flow_run(id_)
                    if _name(run) in names:
                        found[id_] = run
            if len(found) < len(waiting):
                assert time.monotonic() < deadline, (
                    f"not in {sorted(names)} after {seconds} s: {await self.states(left)}\n"
                    + "\n".join(worker.text()[-5000:] for worker in self.workers)
                )
                await asyncio.sleep(0.1)
        return [found[id_] for id_ in waiting]

    def notes(self, what: str = "") -> list[tuple[str, str, float]]:
        """Returns what the flows have noted: what, by which run, when."""
        keep = self.home / "keep"
        lines = keep.read_text().splitlines() if keep.exists() else []
        noted = [(one, id_, float(at)) for one, id_, at in map(str.split, lines)]
        return [note for note in noted if note[0].startswith(what)]

    async def noted(self, what: str, runs: Iterable[UUID], seconds: float = 20) -> None:
        """Waits until each of the runs has noted `what`."""
        wanted = {str(id_) for id_ in runs}
        deadline = time.monotonic() + seconds
        while not wanted <= {id_ for _, id_, _ in self.notes(what)}:
            assert time.monotonic() < deadline, [worker.text() for worker in self.workers]
            await asyncio.sleep(0.05)

    async def again(self, runs: Iterable[UUID], seconds: float) -> None:
        """Waits until each of the runs has begun twice."""
        deadline = time.monotonic() + seconds
        while any([id_ for _, id_, _ in self.notes("began")].count(str(run)) < 2 for run in runs):
            assert time.monotonic() < deadline, [worker.text() for worker in self.workers]
            await asyncio.sleep(0.1)


def _name(run: FlowRun) -> str:
    return run.state.name or "" if run.state is not None else ""


@pytest.fixture(scope="session")
def new_yard(tmp_path_factory: pytest.TempPathFactory) -> Callable[[PrefectClient, str], Yard]:
    """Gives what makes a work pool of its own."""

    def make(client: PrefectClient, url: str) -> Yard:
        return Yard(client, f"pool-{next(_numbers)}", url, tmp_path_factory.mktemp("worker"))

    return make


@pytest.fixture(scope="module")
async def shared_yard(
    prefect_server: str, new_yard: Callable[[PrefectClient, str], Yard]
) -> AsyncIterator[Yard]:
    """Yields a pool with one worker, for tests that leave it as it was."""
    async with get_client() as client:
        yard = new_yard(client, prefect_server)
        await asyncio.to_thread(yard.start().ready)
        yield yard
        yard.end()


@pytest.fixture
async def yard(
    prefect_server: str, new_yard: Callable[[PrefectClient, str], Yard]
) -> AsyncIterator[Yard]:
    """Yields a pool without workers."""
    async with get_client() as client:
        yard = new_yard(client, prefect_server)
        await client.create_work_pool(
            WorkPoolCreate(
                name=yard.pool,
                type="inline",
                base_job_template=InlineWorker.get_default_base_job_template(),
            )
        )
        yield yard
        yard.end()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
