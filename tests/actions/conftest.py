"""A server that steps call, Rota's API, and actions in it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from prefect import get_client
from prefect.client.schemas.objects import FlowRun

from store import tokens
from tests.vps.conftest import log as log
from tests.vps.conftest import rota as rota
from tests.vps.serving import Rota


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Reply = tuple[int, dict[str, str], bytes]
Answer = Callable[[Seen], Awaitable[Reply] | Reply]


def replied(value: Any, status: int = 200) -> Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


@dataclass
class Target:
    """An HTTP server on loopback that notes what comes, and answers as a test says."""

    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    answers: dict[str, Answer | Reply] = field(default_factory=dict)
    connections: int = 0
    held: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def times(self, path: str) -> int:
        return sum(one.path == path for one in self.seen)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            pairs = [line.split(": ", 1) for line in head[1:] if line]
            headers = {name.lower(): value for name, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            seen = Seen(method, path, headers, body)
            self.seen.append(seen)
            reply = self.answers.get(path, replied({"path": path}))
            if callable(reply):
                reply = reply(seen)
            if not isinstance(reply, tuple):
                reply = await reply
            status, sent, content = reply
            lines = [f"HTTP/1.1 {status} -", *(f"{k}: {v}" for k, v in sent.items())]
            lines += [f"Content-Length: {len(content)}", "Connection: close", "", ""]
            writer.write("\r\n".join(lines).encode() + content)
            await writer.drain()
        writer.close()


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    target = Target()
    server = await asyncio.start_server(target.serve, "127.0.0.1", 0)
    target.port = server.sockets[0].getsockname()[1]
    yield target
    server.close()


@dataclass
class Actions:
    """Writes actions of the tenant `acme`, and reads what their runs did."""

    rota: Rota
    http: httpx.AsyncClient

    async def put(self, name: str, *steps: dict[str, Any]) -> httpx.Response:
        return await self.http.put(f"actions/{name}", json={"steps": list(steps)})

    async def made(self, name: str, *steps: dict[str, Any]) -> str:
        answer = await self.put(name, *steps)
        assert answer.is_success, answer.text
        return name

    async def allow(self, *addresses: str) -> None:
        answer = await self.http.put("allowed-addresses", json={"addresses": addresses})
        assert answer.is_success, answer.text

    async def steps(self, name: str, number: int = 0) -> list[dict[str, Any]]:
        """Reads the steps of a run, of the latest unless said otherwise."""
        runs = (await self.http.get(f"actions/{name}/runs")).json()["items"]
        answer = await self.http.get(f"actions/{name}/runs/{runs[number]['id']}")
        found: list[dict[str, Any]] = answer.json()["steps"]
        return found


@pytest.fixture
async def actions(rota: Rota, target: Target) -> AsyncIterator[Actions]:
    """Yields the tenant's actions, which may call this machine."""
    token, _ = await tokens.create(rota.engine, "admin", "admin", None)
    base = f"{rota.url}/api/v1/tenants/acme/"
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=30) as http:
        actions = Actions(rota, http)
        await actions.allow("127.0.0.1")
        yield actions


def step(name: str, kind: str, *following: Any, **fields: Any) -> dict[str, Any]:
    """Returns a step; `following` are names of steps, or rules."""
    rules = [{"step": one} if isinstance(one, str) else one for one in following]
    options = {key: fields.pop(key) for key in ("timeout_seconds", "retries") if key in fields}
    return {"name": name, "kind": kind, "input": fields, "next": rules, **options}


async def latest_run() -> FlowRun:
    async with get_client() as client:
        runs = await client.read_flow_runs()
    return max(runs, key=lambda run: run.created)
