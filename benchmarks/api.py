"""The HTTP API under twenty clients, in one process, with 10,000 definitions of one tenant.

Each client keeps a connection and asks again as soon as it has its answer. They speak HTTP by
hand, so that what is measured is the server and not a client library.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil

from benchmarks.apply import _directory
from benchmarks.processes import BenchmarkError, free_port, python, running, wait_until
from benchmarks.report import Figures, Machine, document, markdown, say
from benchmarks.servers import Servers, started

ROWS = 10_000
CLIENTS = 20
TENANT = "acme"

INSERT = """
insert into definitions (tenant, name, duty, cron, parameters, tags)
select 'acme', 'duty-' || to_char(n, 'FM00000'), 'workflow_run',
       n * 7 % 60 || ' ' || n * 11 % 24 || ' * * *',
       jsonb_build_object('workflow_id', 'workflow-' || n), array['nightly']
from generate_series(1, $1) n
"""


class Client:
    """One connection, by hand: a client library would take longer than what it measures."""

    def __init__(
        self, port: int, token: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def connected(cls, port: int, token: str) -> AsyncIterator[Client]:
        """Yield a client with its connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(port, token, reader, writer)
        finally:
            writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return status and body of an answer."""
        head = f"{method} /api/v1/{path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n"
        if body:
            head += "Content-Type: application/json\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.partition("content-length:")[2].partition("\r\n")[0])
        return int(answer[9:12]), await self._reader.readexactly(length)


Request = tuple[str, str, bytes]


async def load(
    port: int, token: str, requests: Iterator[Request], expected: int
) -> tuple[list[float], float]:
    """Have all clients work off `requests`; return the seconds of each, and of all.

    Raises:
        BenchmarkError: One is answered otherwise than expected.
    """
    taken: list[float] = []

    async def work() -> None:
        async with Client.connected(port, token) as client:
            for request in requests:
                began = time.perf_counter()
                status, body = await client.ask(*request)
                taken.append(time.perf_counter() - began)
                if status != expected:
                    raise BenchmarkError(f"{request[0]} {request[1]}: {status} {body[:500]!r}")

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return taken, time.perf_counter() - began


def definition(name: str, number: int) -> dict[str, Any]:
    """Return a definition as a client would write it."""
    return {
        "name": name,
        "duty": "workflow_run",
        "cron": f"{number % 60} 3 * * *",
        "parameters": {"workflow_id": f"workflow-{number}"},
        "tags": ["nightly"],
    }


class Benchmark:
    """The measurements, in order."""

    def __init__(self, port: int, token: str, server: psutil.Process) -> None:
        self.port = port
        self.token = token
        self.server = server
        self.figures = Figures()

    async def lists(self, count: int) -> None:
        """List 30 of all, as pages and from a row on."""

        def pages() -> Iterator[Request]:
            for number in range(count):
                yield "GET", f"tenants/{TENANT}/definitions?page={number % 300 + 1}", b""

        def rows() -> Iterator[Request]:
            for _ in range(count):
                yield "GET", f"tenants/{TENANT}/definitions?limit=30", b""

        await self._measure(f"list 30 of {ROWS:,} definitions, `page=`", pages(), 200, 0.05)
        await self._measure(f"list 30 of {ROWS:,} definitions, `limit=`", rows(), 200, 0.05)

    async def creates(self, count: int) -> None:
        """Create definitions."""

        def requests() -> Iterator[Request]:
            for number in range(count):
                body = orjson.dumps(definition(f"new-{number}", number))
                yield "POST", f"tenants/{TENANT}/definitions", body

        await self._measure("create a definition", requests(), 201, 0.1)

    async def bulk(self, count: int) -> None:
        """Put many definitions in one call: new ones, and the same again."""
        named = [definition(f"bulk-{number}", number) for number in range(count)]
        body = orjson.dumps({"definitions": named})
        path = "tenants/bulk/definitions?prune=true"
        for what in ("new", "the same again"):
            async with Client.connected(self.port, self.token) as client:
                began = time.perf_counter()
                status, answer = await client.ask("PUT", path, body)
                seconds = time.perf_counter() - began
            if status != 200:
                raise BenchmarkError(f"PUT {path}: {status} {answer[:500]!r}")
            name = f"put {count:,} definitions in one call, {what}"
            self.figures.add(
                name, f"{seconds:.2f} s", "at most 5 s", seconds <= 5, {"seconds": seconds}
            )

    async def _measure(
        self, name: str, requests: Iterator[Request], expected: int, limit: float
    ) -> None:
        cpu = _cpu(self.server)
        taken, seconds = await load(self.port, self.token, requests, expected)
        spent = (_cpu(self.server) - cpu) / len(taken)
        p50, p95 = statistics.median(taken), statistics.quantiles(taken, n=20)[-1]
        self.figures.add(
            f"{name}, {CLIENTS} clients at once",
            f"p50 {p50 * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms, longest {max(taken) * 1000:.0f} "
            f"ms; {len(taken) / seconds:.0f} a second, {spent * 1000:.1f} ms of CPU each",
            f"p95 at most {limit * 1000:.0f} ms",
            p95 <= limit,
            {"p50": p50, "p95": p95, "longest": max(taken), "cpu": spent},
        )


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def fill(servers: Servers) -> None:
    """Write the definitions that lists are of, and tidy up, as the database would by itself."""
    connection = await servers.rota()
    try:
        await connection.execute("insert into tenants (slug) values ('acme'), ('bulk')")
        await connection.execute(INSERT, ROWS)
        await connection.execute("vacuum analyze definitions")
    finally:
        await connection.close()


def _token(environment: dict[str, str]) -> str:
    command = python("-m", "scripts.rota", "token", "create", "--role", "admin", "--json")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return str(orjson.loads(done.stdout)["token"])


def _answers(port: int) -> Callable[[], bool]:
    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
        except httpx.TransportError:
            return False

    return answers


async def run(benchmark: Benchmark, options: argparse.Namespace) -> None:
    """Carry out the measurements, the first of each kind thrown away."""
    warm = ("GET", f"tenants/{TENANT}/definitions?page=1", b"")
    await load(benchmark.port, benchmark.token, iter([warm] * 200), 200)
    await benchmark.lists(options.requests)
    await benchmark.creates(options.requests)
    await benchmark.bulk(1000)


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench api", description=__doc__)
    parser.add_argument("--requests", type=int, default=3000, help="of each kind (3000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", action="store_true", help="keep logs and databases")
    options = parser.parse_args()
    machine = Machine.this(shlex.join(["scripts/bench", "api", *sys.argv[1:]]))
    try:
        with _directory(options.keep) as directory, started(directory) as servers:
            asyncio.run(fill(servers))
            environment = servers.environment()
            port, token = free_port(), _token(environment)
            command = python("-m", "scripts.rota", "serve", "--port", str(port))
            log = directory / "api.log"
            with running(command, environment, log) as process:
                wait_until(_answers(port), "the API", 60, process, log)
                benchmark = Benchmark(port, token, psutil.Process(process.pid))
                asyncio.run(run(benchmark, options))
    except BenchmarkError as error:
        say(f"scripts/bench api: {error}")
        return 1
    print(markdown(benchmark.figures, machine))
    print(f"\nLoad at the end: {os.getloadavg()[0]:.2f}.")
    if options.json:
        found = document(benchmark.figures, machine)
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
