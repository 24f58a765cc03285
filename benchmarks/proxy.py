"""A proxy in front of Prefect's API that counts what passes, by method and path."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.processes import free_port

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]

# Prefect's reads that carry a body are posted to paths that end in one of these.
_READS = re.compile(r"/(filter|count|paginate|read|get_scheduled_flow_runs|history)$")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HOP = {"connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding"}


class Counts:
    """The calls that have passed, such as `PATCH /deployments/ID`."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.writes: Counter[str] = Counter()

    def add(self, method: str, path: str) -> None:
        """Count one call."""
        call = f"{method} {_ID.sub('ID', path)}"
        self.calls[call] += 1
        if method != "GET" and not (method == "POST" and _READS.search(path)):
            self.writes[call] += 1


@asynccontextmanager
async def counting(api: str) -> AsyncIterator[tuple[str, Counts]]:
    """Yield the address of a proxy for `api`, and what has passed through it."""
    counts = Counts()
    async with httpx.AsyncClient(timeout=120) as client:

        async def forward(request: Request) -> Response:
            path = request.url.path.removeprefix("/api")
            counts.add(request.method, path)
            answer = await client.request(
                request.method,
                f"{api}{path}",
                params=request.query_params,
                headers=[(k, v) for k, v in request.headers.items() if k != "host"],
                content=await request.body(),
            )
            headers = {k: v for k, v in answer.headers.items() if k not in _HOP}
            return Response(answer.content, answer.status_code, headers)

        port = free_port()
        proxy = Starlette(routes=[Route("/api/{path:path}", forward, methods=METHODS)])
        server = uvicorn.Server(
            uvicorn.Config(proxy, "127.0.0.1", port, log_level="warning", lifespan="off")
        )
        task = asyncio.create_task(server.serve())
        try:
            while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
                await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{port}/api", counts
        finally:
            server.should_exit = True
            await task
