"""Jobs through a limit: how many a second, at what cost, and never more at once than may.

Prefect's server runs as Rota starts it, on a private PostgreSQL of Debian's; `rota watch`, `rota
serve` and one in-process worker run beside it, each in a process of its own. How many ran at once
is computed from the instants that the table keeps of each job's beginning and end, which enclose
its command.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg
import httpx
import orjson

from benchmarks.apply import _directory, _stop
from benchmarks.processes import BenchmarkError, free_port, python, running, wait_until
from benchmarks.report import Figures, Machine, document, markdown, say
from benchmarks.servers import Servers, started

TENANT = "bench"
POOL = "inline"
IN_FORCE_SECONDS = 2.0

FULL = {"jobs": 1000, "limit": 20, "changing": 120}
QUICK = {"jobs": 60, "limit": 5, "changing": 24}


@dataclass(frozen=True)
class Site:
    """The processes that carry jobs out, by name."""

    servers: Servers
    pids: dict[str, int]
    logs: dict[str, Path]

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds of each, its children included."""
        from benchmarks.worker_site import cpu_seconds

        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}


@contextmanager
def at_work(servers: Servers) -> Iterator[Site]:
    """Start `watch`, the API and a worker that allows commands, and stop them afterwards."""
    port = free_port()
    env = servers.environment() | {"ROTA_WORK_POOL": POOL, "ROTA_ALLOW_COMMANDS": "1"}
    asyncio.run(_furnish(servers, f"http://127.0.0.1:{port}"))
    commands = {
        "api": python("-m", "scripts.rota", "serve", "--port", str(port)),
        "worker": python(*("-m", "prefect", "worker", "start", "--pool", POOL, "--type", "inline")),
        "watch": python("-m", "scripts.rota", "watch"),
    }
    with ExitStack() as stack:
        pids = {"server": servers.server_pid}
        logs = {name: servers.directory / f"{name}.log" for name in commands}
        for name, command in commands.items():
            home = str(servers.directory / f"{name}-prefect")
            process = stack.enter_context(
                running(command, env | {"PREFECT_HOME": home}, logs[name])
            )
            pids[name] = process.pid
            if name == "api":
                url = f"http://127.0.0.1:{port}/healthz"
                wait_until(lambda url=url: _answers(url), "the API", 60, process, logs[name])  # type: ignore[misc]
        yield Site(servers, pids, logs)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


async def _furnish(servers: Servers, url: str) -> None:
    """Make the tenant, and the block by which runs reach the API."""
    from blocks import Records
    from store import database, tokens

    async with database.opened(servers.rota_database) as engine:
        secret, _ = await tokens.create(engine, "bench", "worker")
    await Records(base_url=url, token=secret).asave("default", overwrite=True)
    connection = await servers.rota()
    await connection.execute("insert into tenants (slug) values ($1)", TENANT)
    await connection.close()


class Benchmark:
    """The measurements, one batch of jobs after the other."""

    def __init__(self, site: Site, options: argparse.Namespace, figures: Figures) -> None:
        self.site = site
        self.options = options
        self.figures = figures

    async def run(self) -> None:
        """Measure everything."""
        self.sql = await self.site.servers.rota()
        try:
            await self._set_limit(self.options.limit)
            await self._queue("warm", "true", 1)
            await self._drained(120)
            await self._drain()
            await self._change()
        finally:
            await self.sql.close()

    async def _drain(self) -> None:
        count, limit = self.options.jobs, self.options.limit
        before, began = self.site.cpu(), time.monotonic()
        await self._queue("drain", "true", count)
        await self._drained(60 + count)
        seconds = time.monotonic() - began
        after = self.site.cpu()
        spans = await self._spans("drain")
        most = together(spans)
        self.figures.add(
            f"{count} jobs of `true` through a limit of {limit}",
            f"{count / seconds:.1f} jobs/s ({seconds:.1f} s)",
            values={"jobs_per_second": count / seconds, "seconds": seconds},
        )
        self.figures.add(
            "running at once, at most",
            str(most),
            f"at most {limit}",
            most <= limit,
            {"most": most},
        )
        cost = {name: (after[name] - before[name]) / count * 1000 for name in before}
        self.figures.add(
            "CPU for each job",
            ", ".join(f"{name} {spent:.0f} ms" for name, spent in cost.items()),
            values={f"{name}_cpu_ms": spent for name, spent in cost.items()},
        )
        failed = await self.sql.fetchval("select count(*) from jobs where status <> 'completed'")
        self.figures.add("jobs that did not complete", str(failed), "none", failed == 0)

    async def _change(self) -> None:
        """Lower the limit while a batch is being worked off, and raise it again.

        Its commands take so long that as many run at once as may.
        """
        count, high = self.options.changing, self.options.limit
        low = high // 4
        await self._queue("change", "sleep 3", count)
        await self._begun("change", 2 * high)
        lowered = await self._set_limit(low)
        await self._begun("change", 2 * high + 4 * low)
        raised = await self._set_limit(high)
        await self._drained(60 + count)
        spans = await self._spans("change")
        for said, limit, since, until in (
            ("before", high, None, lowered),
            ("lowered", low, lowered, raised),
            ("raised", high, raised, None),
        ):
            at = since and since.timestamp() + IN_FORCE_SECONDS
            most = together(spans, at, until and until.timestamp())
            self.figures.add(
                f"running at once with a limit of {limit} ({said})",
                str(most),
                f"exactly {limit}, from {IN_FORCE_SECONDS:.0f} s after the change",
                most == limit,
            )

        beyond = first_beyond(spans, low, raised.timestamp())
        seconds = None if beyond is None else beyond - raised.timestamp()
        self.figures.add(
            "from raising the limit to the first beginning beyond the old one",
            "never" if seconds is None else f"{seconds:.1f} s",
            f"at most {IN_FORCE_SECONDS:.0f} s",
            seconds is not None and seconds <= IN_FORCE_SECONDS,
            {} if seconds is None else {"seconds": seconds},
        )

    async def _set_limit(self, limit: int) -> datetime:
        at: datetime = await self.sql.fetchval(
            "insert into settings (tenant, key, value) values ($1, 'max_concurrent_jobs', $2) "
            "on conflict (tenant, key) do update set value = excluded.value "
            "returning clock_timestamp()",
            TENANT,
            str(limit),
        )
        return at

    async def _queue(self, name: str, command: str, count: int) -> None:
        await self.sql.execute(
            "insert into jobs (tenant, name, command) "
            "select $1, $2 || '-' || number, $3 from generate_series(1, $4) number",
            *(TENANT, name, command, count),
        )

    async def _begun(self, name: str, count: int) -> None:
        question = "select count(*) from jobs where started_at is not null and name like $1"
        await self._until(count, 60 + count, question, f"{name}-%")

    async def _drained(self, seconds: float) -> None:
        question = "select 1 - least(1, count(*)) from jobs where status in ('queued', 'running')"
        await self._until(1, seconds, question)

    async def _until(self, count: int, seconds: float, question: str, *values: str) -> None:
        deadline = time.monotonic() + seconds
        while await self.sql.fetchval(question, *values) < count:
            if time.monotonic() > deadline:
                rows = await self.sql.fetch("select status, count(*) from jobs group by status")
                tails = "\n".join(
                    f"{n}: {p.read_text()[-1500:]}" for n, p in self.site.logs.items()
                )
                raise BenchmarkError(f"jobs do not end: {[tuple(row) for row in rows]}\n{tails}")
            await asyncio.sleep(0.05)

    async def _spans(self, name: str) -> list[asyncpg.Record]:
        found: list[asyncpg.Record] = await self.sql.fetch(
            "select extract(epoch from started_at)::float8 as began, "
            "extract(epoch from finished_at)::float8 as ended from jobs where name like $1",
            f"{name}-%",
        )
        return found


def together(
    spans: Sequence[asyncpg.Record], since: float | None = None, until: float | None = None
) -> int:
    """Return how many spans were open at most, right after one had begun in this time."""
    return max(
        (
            count
            for at, count in _beginnings(spans)
            if (since is None or at >= since) and (until is None or at < until)
        ),
        default=0,
    )


def first_beyond(spans: Sequence[asyncpg.Record], limit: int, since: float) -> float | None:
    """Return when the first span began that made more than `limit` of them, from `since` on."""
    return next((at for at, count in _beginnings(spans) if at >= since and count > limit), None)


def _beginnings(spans: Sequence[asyncpg.Record]) -> Iterator[tuple[float, int]]:
    """Yield when each span began, and how many were open then."""
    # Of one instant, an end counts before a beginning: it was written before.
    steps = sorted([(row["ended"], -1) for row in spans] + [(row["began"], 1) for row in spans])
    count = 0
    for at, step in steps:
        count += step
        if step > 0:
            yield at, count


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench jobs", description=__doc__)
    parser.add_argument("--jobs", type=int, help=f"jobs of `true` ({FULL['jobs']})")
    parser.add_argument("--limit", type=int, help=f"how many may run at once ({FULL['limit']})")
    parser.add_argument(
        "--changing", type=int, help=f"jobs while the limit changes ({FULL['changing']})"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", action="store_true", help="keep logs and databases")
    parser.set_defaults(**(QUICK if parser.parse_args(arguments).quick else FULL))
    return parser.parse_args(arguments)


def main() -> int:
    options = _options(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    machine = Machine.this(shlex.join(["scripts/bench", "jobs", *sys.argv[1:]]))
    figures, status = Figures(), 0
    try:
        with _directory(options.keep) as directory, started(directory) as servers:
            # Prefect's client reads the environment as it is imported.
            environment = servers.environment()
            os.environ.clear()
            os.environ.update(environment)
            with at_work(servers) as site:
                asyncio.run(Benchmark(site, options, figures).run())
    except BenchmarkError as error:
        say(f"scripts/bench jobs: {error}")
        status = 1
    if not figures:
        return status
    print(markdown(figures, machine))
    print(f"\nLoad at the end: {os.getloadavg()[0]:.2f}.")
    if options.json:
        found = document(figures, machine)
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return status


if __name__ == "__main__":
    sys.exit(main())
