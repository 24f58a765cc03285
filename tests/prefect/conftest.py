"""A real Prefect server for the tests in this directory, started once."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

STARTUP_SECONDS = 90


def pytest_configure(config: pytest.Config) -> None:
    # Every flow run reads the server's default result storage with a client that Prefect does not
    # close (`prefect/results.py`). The garbage collector finds its socket in any later test.
    config.addinivalue_line("filterwarnings", "ignore:unclosed <socket.socket:ResourceWarning")


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect-home")


@pytest.fixture(scope="session")
def prefect_server(prefect_home: Path) -> Iterator[str]:
    """Starts a server with a SQLite database of its own, and points this process to it.

    Yields the address of its API.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    log = prefect_home / "server.log"
    where = ["--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", *where],
            env=_environment(prefect_home, url),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(url, process, log)
        with temporary_settings(updates={PREFECT_API_URL: url, PREFECT_HOME: prefect_home}):
            yield url
            # Logs still on their way would look for the server until long after its end.
            APILogHandler().flush()
    finally:
        _end_group(process)


@dataclass(frozen=True)
class Deployed:
    """A duty with a deployment such as Rota makes, due daily at noon in Berlin."""

    duty: Any
    parameters: dict[str, Any] = field(default_factory=dict)

    definition_id = "0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"
    occurrence = datetime(2024, 11, 20, 11, tzinfo=UTC)

    async def manual_run(self) -> FlowRun:
        async with get_client() as client:
            return await client.create_flow_run_from_deployment(await self._deploy(client))

    async def scheduled_run(self) -> FlowRun:
        """Has the server make the run of a past day, as its scheduler would have."""
        window = {
            "start_time": (self.occurrence - timedelta(hours=1)).isoformat(),
            "end_time": (self.occurrence + timedelta(hours=1)).isoformat(),
        }
        async with get_client() as client:
            deployment_id = await self._deploy(client)
            made = await client._client.post(f"/deployments/{deployment_id}/schedule", json=window)
            made.raise_for_status()
            [run] = await client.read_flow_runs(
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
                flow_run_filter=FlowRunFilter(
                    expected_start_time=FlowRunFilterExpectedStartTime(before_=self.occurrence)
                ),
            )
            return run

    async def _deploy(self, client: PrefectClient) -> UUID:
        document = {
            "flow_id": str(await client.create_flow(self.duty)),
            "name": f"acme.{uuid4()}",
            "parameters": self.parameters,
            "labels": {"rota.definition": self.definition_id, "rota.reference": "acme/noon"},
            "schedules": [{"schedule": {"cron": "0 12 * * *", "timezone": "Europe/Berlin"}}],
        }
        # The client's own method does not take labels.
        created = await client._client.post("/deployments/", json=document)
        created.raise_for_status()
        return UUID(created.json()["id"])


@pytest.fixture
def deployed(prefect_server: str) -> type[Deployed]:
    return Deployed


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _environment(home: Path, url: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return {
        **inherited,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").is_success:
                return
        time.sleep(0.2)
    pytest.fail(f"Prefect's server did not start:\n{log.read_text()[-4000:]}")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    # The server's own children may outlive it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
