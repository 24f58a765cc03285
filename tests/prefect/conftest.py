"""What the tests against a real Prefect server share."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
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
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.gateway import Gateway
from deployments.reconcile import Reconciler, Report
from store import changes, roster
from store.settings import Settings


def pytest_configure(config: pytest.Config) -> None:
    # Every flow run reads the server's default result storage with a client that Prefect does not
    # close (`prefect/results.py`). The garbage collector finds its socket in any later test.
    config.addinivalue_line("filterwarnings", "ignore:unclosed <socket.socket:ResourceWarning")


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


# -- definitions, a reconciler, and a proxy between it and Prefect


@dataclass(frozen=True)
class Call:
    """One request that came to the proxy."""

    method: str
    path: str
    body: Any

    @property
    def writes(self) -> bool:
        """Whether it may change something in Prefect."""
        reads = self.method == "GET" or self.path.endswith(("/filter", "/count"))
        return not reads

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


Fault = Callable[[Call], "str | int | None"]
"""What goes wrong with a call: a status to answer, `page` (somebody else's), `nothing` (no answer
ever), `cut` (the connection breaks before Prefect hears of it), `cut after` (when Prefect has done
it), `kill` (likewise, and the process of `victim` dies), or None."""

Gate = Callable[[Call], Awaitable[None]]
"""Holds a call back for as long as it likes, before it is passed on."""


class Proxy:
    """An HTTP proxy in front of Prefect that records what it passes on, and breaks on demand."""

    def __init__(self, upstream: str) -> None:
        self._upstream = httpx.AsyncClient(base_url=upstream.removesuffix("/api"), timeout=60)
        self.address = ""
        self.calls: list[Call] = []
        self.fault: Fault = lambda call: None
        self.gate: Gate | None = None
        self.victim: int | None = None

    @property
    def writes(self) -> list[str]:
        """The calls that may have changed something."""
        return [str(call) for call in self.calls if call.writes]

    def fail_at(self, number: int, fault: str | int) -> None:
        """Have the `number`-th call from now on, and no other, go wrong."""
        self.calls.clear()
        self.fault = lambda call: fault if len(self.calls) == number else None

    def mend(self) -> None:
        """Let everything through again, and forget what came."""
        self.calls.clear()
        self.fault = lambda call: None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._pass_on(reader, writer):
                pass
        writer.close()

    async def close(self) -> None:
        await self._upstream.aclose()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in headers.items()}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        call = Call(method, path, json.loads(body) if body else None)
        self.calls.append(call)
        if self.gate is not None:
            await self.gate(call)
        fault = self.fault(call)
        if fault == "cut":
            return False
        if fault == "nothing":
            await reader.read()  # until the caller gives up
            return False
        if isinstance(fault, int):
            status, content = fault, b'{"detail": "the proxy says so"}'
        elif fault == "page":
            status, content = 200, b"<html>Please sign in.</html>"
        else:
            passed = {k: v for k, v in headers.items() if k not in ("host", "accept-encoding")}
            answer = await _sent(self._upstream, method, path, content=body, headers=passed)
            status, content = answer.status_code, answer.content
        if fault == "kill":
            assert self.victim is not None
            os.kill(self.victim, signal.SIGKILL)
        if fault in ("cut after", "kill"):
            return False
        writer.write(
            f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n"
            # Else Prefect's client sleeps for a second or two after a 503, even if it gives up.
            f"Content-Length: {len(content)}\r\nRetry-After: 0\r\n\r\n".encode()
            + content
        )
        await writer.drain()
        return True


async def _sent(http: httpx.AsyncClient, method: str, path: str, **what: Any) -> httpx.Response:
    """Sends a request until Prefect's SQLite is not locked by Prefect's own services."""
    async with asyncio.timeout(60):
        while True:
            answer = await http.request(method, path, **what)
            if answer.status_code != 503:
                return answer
            await asyncio.sleep(0.05)


@pytest.fixture
async def proxy(prefect_server: str) -> AsyncIterator[Proxy]:
    """Starts a proxy in front of Prefect, and points Prefect's client to it."""
    proxy = Proxy(prefect_server)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
    settings = {
        PREFECT_API_URL: proxy.address,
        PREFECT_CLIENT_MAX_RETRIES: 0,
        PREFECT_API_REQUEST_TIMEOUT: 20,
    }
    with temporary_settings(updates=settings):
        yield proxy
    server.close()
    await proxy.close()


class House:
    """One tenant's definitions, a reconciler, and what Prefect really holds of them."""

    def __init__(
        self, sql: asyncpg.Connection, engine: AsyncEngine, gateway: Gateway, prefect: str, tag: str
    ) -> None:
        self.tenant = f"t{uuid4().hex[:10]}"  # all tests share one Prefect
        self.sql = sql
        self.engine = engine
        self.gateway = gateway
        self.tag = tag
        self.reconciler = Reconciler(engine, gateway, Settings(concurrency=1, settle_seconds=3))
        self.prefect = httpx.AsyncClient(base_url=prefect, timeout=60)

    # the rows

    async def define(self, name: str, **columns: Any) -> UUID:
        """Inserts a definition that is due every minute, unless `columns` say otherwise."""
        timed = {"cron", "interval_seconds", "run_at", "after_seconds"} & columns.keys()
        columns = {
            "tenant": self.tenant,
            "name": name,
            "duty": "workflow_run",
            "parameters": {"workflow_id": name},
            **({} if timed else {"cron": "* * * * *"}),
            **columns,
        }
        marks = ", ".join(f"${number + 1}" for number in range(len(columns)))
        found: UUID = await self.sql.fetchval(
            f"insert into definitions ({', '.join(columns)}) values ({marks}) returning id",
            *map(_column, columns.values()),
        )
        return found

    async def change(self, name: str, **columns: Any) -> None:
        """Updates a definition."""
        sets = ", ".join(f"{column} = ${number + 2}" for number, column in enumerate(columns))
        changed = await self.sql.execute(
            f"update definitions set {sets} where name = $1", name, *map(_column, columns.values())
        )
        assert changed == "UPDATE 1"

    async def remove(self, name: str) -> None:
        """Deletes a definition."""
        assert await self.sql.execute("delete from definitions where name = $1", name) == "DELETE 1"

    async def row(self, name: str) -> asyncpg.Record:
        """Reads a definition."""
        return await self.sql.fetchrow("select * from definitions where name = $1", name)

    # the reconciler

    async def step(self) -> Report:
        """Deals with the notes that there are."""
        work = await changes.begin(self.engine)
        assert work is not None, "there is nothing to do"
        return await self.reconciler.deal_with(work)

    async def settle(self) -> None:
        """Deals with notes until there are none, which must not take more than a few tries."""
        for _ in range(5):
            if work := await changes.begin(self.engine):
                await self.reconciler.deal_with(work)
        assert await changes.waiting(self.engine) == 0

    async def comes_to_rest_at(self, name: str, expected: list[datetime]) -> None:
        """Deals with notes until Prefect holds these runs: its scheduler may interfere once."""
        deadline = time.monotonic() + 20
        while (runs := await self.runs(name)) != expected and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            await self.settle()
        assert runs == expected, name

    # Prefect, past the gateway and the proxy

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Does in Prefect what somebody may do in its UI."""
        answer = await _sent(self.prefect, method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def deployments(self) -> dict[str, dict[str, Any]]:
        """Reads all deployments of this database by name, without the tenant."""
        body = {"deployments": {"tags": {"all_": [self.tag]}}, "sort": "NAME_ASC"}
        found = await self.call("POST", "/deployments/filter", body)
        by_name = {one["name"].partition(".")[2]: one for one in found}
        assert len(by_name) == len(found), "two deployments have one name"
        return by_name

    async def deployment(self, name: str) -> dict[str, Any]:
        """Reads one deployment by its name."""
        return (await self.deployments())[name]

    async def runs(self, name: str) -> list[datetime]:
        """Reads when the runs of a deployment are due that have not begun."""
        chosen = {
            "deployment_id": {"any_": [(await self.deployment(name))["id"]]},
            "state": {"type": {"any_": ["SCHEDULED"]}},
        }
        body = {"flow_runs": chosen, "sort": "EXPECTED_START_TIME_ASC"}
        runs = await self.call("POST", "/flow_runs/filter", body)
        return [datetime.fromisoformat(run["expected_start_time"]) for run in runs]

    async def close(self) -> None:
        body = {"deployments": {"tags": {"all_": [self.tag]}}}
        for deployment in await self.call("POST", "/deployments/filter", body):
            await self.call("DELETE", f"/deployments/{deployment['id']}")
        await self.prefect.aclose()


def _column(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value


@pytest.fixture
async def house(
    sql: asyncpg.Connection, engine: AsyncEngine, proxy: Proxy, prefect_server: str, pool: str
) -> AsyncIterator[House]:
    """Yields an empty house, whose reconciler talks to Prefect through `proxy`."""
    tag = f"rota:{(await roster.read(engine, [])).instance}"
    async with Gateway.connect() as gateway:
        house = House(sql, engine, gateway, prefect_server, tag)
        await sql.execute("insert into tenants (slug) values ($1)", house.tenant)
        await sql.execute("delete from changes")
        proxy.calls.clear()
        yield house
        await house.close()
