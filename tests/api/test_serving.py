"""`rota serve` as a process: over the wire, and when it is told to stop."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

pytestmark = pytest.mark.acceptance

LARGE = 9 * 1024 * 1024


async def _megabytes() -> AsyncIterator[bytes]:
    for _ in range(LARGE // 65536):
        yield b"x" * 65536


async def test_a_body_that_is_too_large_is_refused_on_the_wire_too(remote: Any, acme: str) -> None:
    headers = {"Content-Type": "application/yaml"}
    for content in (b"x" * LARGE, _megabytes()):
        answer = await remote.put(f"/tenants/{acme}/definitions", content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert (await remote.get(f"/tenants/{acme}")).status_code == 200


async def test_what_is_no_http_does_no_harm(served: Any, remote: Any) -> None:
    for said in (
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /api/v1/tenants HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \0\r\n\r\n",
        b"PUT /api/v1/tenants/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(said)
        async with asyncio.timeout(10):
            answer = await reader.read(12)
        assert answer[:9] == b"HTTP/1.1 "
        assert answer[9:10] == b"4"
        writer.close()
    assert (await remote.get("/healthz", None)).status_code == 200


async def test_a_call_that_is_under_way_is_answered_before_the_process_ends(
    served: Any, remote: Any, acme: str, sql: asyncpg.Connection, blocked: Any
) -> None:
    await remote.token("admin")
    async with sql.transaction():
        await sql.execute("lock table audit in exclusive mode")
        writing = asyncio.ensure_future(remote.put(f"/tenants/{acme}", json={"title": "Last"}))
        await blocked()
        served.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while await _listens(served.port):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.02)
    assert (await writing).status_code == 200
    # uvicorn ends as the signal would have ended it.
    assert await asyncio.to_thread(served.process.wait, 15) in (0, -signal.SIGTERM)
    assert await sql.fetchval("select title from tenants where slug = $1", acme) == "Last"


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_a_client_that_goes_away_does_not_hold_a_connection_of_the_database(
    remote: Any, acme: str, sql: asyncpg.Connection, blocked: Any
) -> None:
    await remote.token("admin")
    async with sql.transaction():
        await sql.execute("lock table audit in exclusive mode")
        for _ in range(12):  # more than the pool holds
            with pytest.raises(httpx.TimeoutException):
                await remote.put(f"/tenants/{acme}", json={"title": "x"}, timeout=0.2)
        await blocked()
    async with asyncio.timeout(20):
        answer = await remote.put(f"/tenants/{acme}", json={"title": "y"})
    assert answer.status_code == 200


async def test_a_port_that_is_taken_is_told(
    database_url: str, prefect_server: str, tmp_path: Path
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        env = {**os.environ, "ROTA_DATABASE_URL": database_url, "ROTA_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "scripts.rota", "serve", "--port", port]
        done = await asyncio.to_thread(
            subprocess.run, command, env=env, capture_output=True, text=True, timeout=60
        )
    assert done.returncode > 0
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr
