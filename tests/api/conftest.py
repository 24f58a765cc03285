"""The application, in this process and in one of its own, and tokens to call it with."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import jsonschema
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import BASE, make, routed
from api.state import State
from deployments.gateway import Gateway
from deployments.reconcile import Reconciler
from store import changes, database, roster, tokens
from store.settings import Settings

STARTUP_SECONDS = 60


# -- calling it


class Contract:
    """What OpenAPI says of every answer, and whether one keeps to it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self._paths = {
            re.compile(re.sub(r"\{\w+\}", "[^/]*", path)): operations
            for path, operations in document["paths"].items()
        }
        self._validators: dict[str, jsonschema.Draft202012Validator] = {}

    def check(self, answer: httpx.Response) -> None:
        """Holds an answer against the document; what that does not know is left alone."""
        method, path = answer.request.method.lower(), answer.request.url.raw_path.decode()
        operation = self._operation(method, path.partition("?")[0])
        if operation is None:
            return
        said = f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        declared = operation["responses"].get(str(answer.status_code))
        assert declared is not None, f"not declared: {said}"
        content = declared.get("content", {})
        if not content:
            assert not answer.content, said
            return
        media = answer.headers["content-type"].partition(";")[0]
        assert media in content, said
        schema = content[media]["schema"]
        for error in self._validator(schema).iter_errors(answer.json()):
            pytest.fail(f"{said}\n{error.json_path}: {error.message}")

    def _operation(self, method: str, path: str) -> Mapping[str, Any] | None:
        # A path without parameters comes before one that takes anything in its place.
        fitting = [one for one in self._paths if one.fullmatch(path)]
        if not fitting:
            return None
        found: Mapping[str, Any] = self._paths[min(fitting, key=lambda one: one.pattern.count("*"))]
        return found.get(method)

    def _validator(self, schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            whole = {**schema, "components": self.document["components"]}
            self._validators[key] = jsonschema.Draft202012Validator(
                whole, format_checker=jsonschema.FormatChecker()
            )
        return self._validators[key]


_contracts: list[Contract] = []


def contract_of(app: FastAPI) -> Contract:
    """Returns what the application promises; it is the same for each that is made."""
    if not _contracts:
        _contracts.append(Contract(app.openapi()))
    return _contracts[0]


@dataclass
class Api:
    """Calls the API as the holder of a token, and sees that it answers as it has declared.

    A caller is named by role, and by tenant where the token is good for one: `admin`,
    `viewer@acme`. None calls without a token.
    """

    http: httpx.AsyncClient
    engine: AsyncEngine
    contract: Contract
    app: FastAPI | None = None
    _tokens: dict[str, str] = field(default_factory=dict)

    async def token(self, who: str) -> str:
        """Returns the token of a caller, who is made where there is none yet."""
        if who not in self._tokens:
            role, _, tenant = who.partition("@")
            self._tokens[who], _ = await tokens.create(self.engine, who, role, tenant or None)
        return self._tokens[who]

    async def call(
        self,
        method: str,
        path: str,
        who: str | None = "admin",
        *,
        headers: Mapping[str, str] | None = None,
        **what: Any,
    ) -> httpx.Response:
        """Calls a path below the base, or one that a list has named, which begins with it."""
        sent = dict(headers or {})
        if who is not None:
            sent.setdefault("Authorization", f"Bearer {await self.token(who)}")
        whole = path if path.startswith(BASE) else f"{BASE}{path}"
        answer = await self.http.request(method, whole, headers=sent, **what)
        self.contract.check(answer)
        return answer

    async def get(self, path: str, who: str | None = "admin", **what: Any) -> httpx.Response:
        return await self.call("GET", path, who, **what)

    async def post(self, path: str, who: str | None = "admin", **what: Any) -> httpx.Response:
        return await self.call("POST", path, who, **what)

    async def put(self, path: str, who: str | None = "admin", **what: Any) -> httpx.Response:
        return await self.call("PUT", path, who, **what)

    async def patch(self, path: str, who: str | None = "admin", **what: Any) -> httpx.Response:
        return await self.call("PATCH", path, who, **what)

    async def delete(self, path: str, who: str | None = "admin", **what: Any) -> httpx.Response:
        return await self.call("DELETE", path, who, **what)


Build = Callable[..., Awaitable[Api]]


@pytest.fixture
async def build(engine: AsyncEngine, gateway: Gateway) -> AsyncIterator[Build]:
    """Gives what makes the application in this process, on other parts where a test names some."""
    opened: list[httpx.AsyncClient] = []

    async def make_api(
        settings: Settings | None = None,
        engine: AsyncEngine = engine,
        gateway: Gateway = gateway,
        client: tuple[str, int] = ("127.0.0.1", 123),
    ) -> Api:
        app = await make(settings or Settings(), engine, gateway)
        transport = httpx.ASGITransport(app, client=client)
        http = httpx.AsyncClient(transport=transport, base_url="http://rota")
        opened.append(http)
        return Api(http, engine, contract_of(app), app)

    yield make_api
    for http in opened:
        await http.aclose()


@pytest.fixture(scope="session")
def application() -> FastAPI:
    """The application without its state; to put its routes together takes a while."""
    return routed(Settings())


@pytest.fixture
async def api(application: FastAPI, engine: AsyncEngine, gateway: Gateway) -> AsyncIterator[Api]:
    """The application in this process, on the test's database and the tests' Prefect."""
    application.state.rota = await State.of(Settings(), engine, gateway)
    transport = httpx.ASGITransport(application, client=("127.0.0.1", 123))
    async with httpx.AsyncClient(transport=transport, base_url="http://rota") as http:
        yield Api(http, engine, contract_of(application), application)


@pytest.fixture
async def blocked(database_url: str) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Yields what waits until so many calls wait for a lock of the database's."""
    # Of its own: within a transaction PostgreSQL tells always the same of who waits.
    connection = await database.connect(make_url(database_url))

    async def wait(count: int = 1) -> None:
        question = (
            "select count(*) from pg_stat_activity where datname = current_database() and "
            "wait_event_type = 'Lock'"
        )
        async with asyncio.timeout(20):
            while await connection.fetchval(question) < count:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)

    yield wait
    await connection.close()


# -- what there is to call about


@pytest.fixture
async def acme(sql: asyncpg.Connection) -> str:
    """Makes a tenant, and returns its slug; all tests share one Prefect, so it is a new one."""
    slug = f"acme-{uuid4().hex[:10]}"
    await sql.execute("insert into tenants (slug) values ($1)", slug)
    return slug


@pytest.fixture
def definitions(acme: str) -> str:
    """The path of the tenant's definitions."""
    return f"/tenants/{acme}/definitions"


def a_definition(name: str = "nightly", **fields: Any) -> dict[str, Any]:
    """Returns the body of a definition, due daily unless `fields` say otherwise."""
    timed = {"cron", "interval_seconds", "run_at", "after_seconds"} & fields.keys()
    return {
        "name": name,
        "duty": "workflow_run",
        "parameters": {"workflow_id": name},
        **({} if timed else {"cron": "0 3 * * *"}),
        **fields,
    }


@pytest.fixture(name="a_definition", scope="session")
def _a_definition() -> Callable[..., dict[str, Any]]:
    return a_definition


class Watch:
    """Does what `rota watch` does, when a test says so."""

    def __init__(self, engine: AsyncEngine, gateway: Gateway) -> None:
        self._engine = engine
        self._reconciler = Reconciler(engine, gateway, Settings(concurrency=1, settle_seconds=0))

    async def settle(self) -> None:
        """Deals with all that has been written."""
        for _ in range(5):
            if work := await changes.begin(self._engine):
                await self._reconciler.deal_with(work)
        assert await changes.waiting(self._engine) == 0


@pytest.fixture
async def watch(engine: AsyncEngine, gateway: Gateway, pool: str) -> AsyncIterator[Watch]:
    """Yields what carries out definitions, and takes their deployments away in the end."""
    yield Watch(engine, gateway)
    tag = f"rota:{(await roster.read(engine, [])).instance}"
    owned = [one["id"] async for page in gateway.owned(tag) for one in page]
    for one in owned:
        await gateway.delete(one)


# -- the table of routes


@dataclass(frozen=True, order=True)
class Route:
    """One method of one path, below the base."""

    path: str
    method: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def routes_of(app: FastAPI) -> list[Route]:
    """Returns all routes that the application answers below its base, but for its document."""
    found = list(iter_route_contexts(app.routes))
    return sorted(
        Route(path.removeprefix(BASE).replace(":path}", "}"), method)
        for one in found
        if (path := str(one.path)).startswith(BASE) and path != app.openapi_url
        for method in one.methods or ("ANY",)
    )


@pytest.fixture
def routes(api: Api) -> list[Route]:
    """The application's routes."""
    assert api.app is not None
    return routes_of(api.app)


# -- a process of its own


class Served:
    """A `rota serve` of the test's own."""

    def __init__(self, database_url: str, home: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / f"serve-{self.port}.log"
        self._env = {**os.environ, "ROTA_DATABASE_URL": database_url, "ROTA_HOME": str(home)}
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "scripts.rota", "serve", "--port", str(self.port)],
                env=self._env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Waits until it answers."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/healthz").is_success:
                    return
            time.sleep(0.05)
        pytest.fail(f"rota serve did not start:\n{self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        """Ends it at once, whatever it is doing."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """Starts it where it was, and waits until it answers."""
        self.process = self._start()
        self.wait()


@pytest.fixture
def served(
    database_url: str,
    prefect_server: str,
    tmp_path: Path,
    end_group: Callable[..., None],
) -> Iterator[Served]:
    """Yields a `rota serve` that answers."""
    served = Served(database_url, tmp_path)
    try:
        served.wait()
        yield served
    finally:
        end_group(served.process, signal.SIGTERM)


@pytest.fixture
async def remote(served: Served, api: Api) -> AsyncIterator[Api]:
    """Yields what calls the process; its tokens are those of `api`."""
    async with httpx.AsyncClient(base_url=served.url, timeout=30) as http:
        yield Api(http, api.engine, api.contract, None, api._tokens)
