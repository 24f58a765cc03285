"""Rota's API on loopback, for flows that write through it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import routed
from api.state import State
from blocks.records import Records
from deployments.gateway import Gateway
from store import tokens
from store.settings import Settings


@dataclass
class Rota:
    """An API that answers, with a tenant `acme`, and a Records block named `default`.

    While it is `away`, it answers as a proxy does that finds nobody behind it.
    """

    url: str
    engine: AsyncEngine
    sql: asyncpg.Connection
    tenant: str = "acme"
    away: bool = False

    async def add_tenant(self, slug: str) -> None:
        await self.sql.execute("insert into tenants (slug) values ($1)", slug)

    async def records(self, role: str = "worker") -> Records:
        token, _ = await tokens.create(self.engine, role, role, None)
        return Records(base_url=self.url, token=token, deadline_seconds=20)

    async def rows(self, question: str, *values: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.sql.fetch(question, *values)]

    async def status(self) -> dict[str, str]:
        """Reads the status of each server of the tenant, by its handle."""
        found = await self.rows("select handle, status from servers where tenant = $1", self.tenant)
        return {one["handle"]: one["status"] for one in found}

    async def incidents(self) -> list[dict[str, Any]]:
        question = "select * from incidents where tenant = $1 order by detected_at, id"
        return await self.rows(question, self.tenant)


_idle: list[FastAPI] = []
"""Applications that nobody is served by; to put the routes of one together takes a while."""


@asynccontextmanager
async def serving(
    engine: AsyncEngine, gateway: Gateway, sql: asyncpg.Connection
) -> AsyncIterator[Rota]:
    """Yields the API with its tenant; its block is stored as long."""
    app = _idle.pop() if _idle else routed(Settings())
    app.state.rota = await State.of(Settings(), engine, gateway)

    async def front(scope: Any, receive: Any, send: Any) -> None:
        await (Response(status_code=503) if rota.away else app)(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(front, log_level="error", lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or answers wait for 40 ms
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    rota = Rota(url, engine, sql)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await rota.add_tenant(rota.tenant)
        await (await rota.records()).asave("default", overwrite=True)
        async with httpx.AsyncClient(base_url=url) as http:
            (await http.get("/healthz")).raise_for_status()
        yield rota
        await Records.adelete("default")
    finally:
        server.should_exit = True
        await running
        listener.close()
        _idle.append(app)
