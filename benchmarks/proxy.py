"""A proxy in front of Prefect's API that counts what passes, by method and path."""

from __future__ import annotations

import asyncio
import functools
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.processes import free_port, wait_until

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


@contextmanager
def counting(api: str) -> Iterator[tuple[str, Counts]]:
    """Yield the address of a proxy for `api`, and what has passed through it.

    It runs in a thread, so that the caller may wait for a process that calls it.
    """
    counts = Counts()
    port = free_port()

    async def serve() -> None:
        async with httpx.AsyncClient(timeout=120) as client:
            endpoint = functools.partial(_forward, api, client, counts)
            server.config.app = Starlette(
                routes=[Route("/api/{path:path}", endpoint, methods=METHODS)]
            )
            await server.serve()

    server = uvicorn.Server(
        uvicorn.Config(Starlette(), "127.0.0.1", port, log_level="warning", lifespan="off")
    )
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the counting proxy", 10)
        yield f"http://127.0.0.1:{port}/api", counts
    finally:
        server.should_exit = True
        thread.join(timeout=10)


async def _forward(
    api: str, client: httpx.AsyncClient, counts: Counts, request: Request
) -> Response:
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
