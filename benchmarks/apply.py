"""Rota beside `prefect deploy`, on one machine in one run, against one Prefect server.

Prefect's server runs as Rota starts it (`scripts.server`), on a private PostgreSQL of Debian's;
the definitions are in a private embedded PostgreSQL. Each figure is of whole processes, from
their start to their end. Nothing of the machine's own Prefect or Rota is touched, and every
process ends with this one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import orjson

from benchmarks.edits import measure_edits
from benchmarks.processes import PROJECT, BenchmarkError, Usage, measure, python
from benchmarks.proxy import counting
from benchmarks.report import Figures, Machine, document, markdown, say
from benchmarks.samples import insert, samples, write_project
from benchmarks.servers import Servers, started

ROWS = 1000
MANY_ROWS = 10_000


class Benchmark:
    """The measurements, in the order in which they build upon one another."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.figures = Figures()

    # -- the steps

    async def deploy(self, count: int) -> float:
        """Measure `prefect deploy --all`; return its seconds per deployment."""
        project = self.servers.directory / "project"
        project.mkdir()
        write_project(project, samples(count))
        command = python("-m", "prefect", "--no-prompt", "deploy", "--all")
        usage = self._measure("prefect-deploy", command, 60 + 2 * count, cwd=project)
        await self._expect_deployments(count)
        each = usage.seconds / count
        self.figures.add(
            f"`prefect deploy --all`, cold, {count:,} deployments",
            f"{each * 1000:.0f} ms each ({usage.seconds:.1f} s)",
            values={"count": count, "per_deployment_seconds": each, **_numbers(usage)},
        )
        await self._clear()
        return each

    async def cold(self, deploy_each: float | None) -> None:
        """Measure the first apply of 1,000 rows."""
        usage = await self._apply_new(ROWS, 0)
        each = usage.seconds / ROWS
        self.figures.add(
            f"`rota apply`, cold, {ROWS:,} definitions",
            f"{each * 1000:.1f} ms each ({usage.seconds:.1f} s)",
            values={"count": ROWS, "per_deployment_seconds": each, **_numbers(usage)},
        )
        if deploy_each is not None:
            ratio = deploy_each / each
            self.figures.add(
                "times faster per deployment, cold",
                f"{ratio:.1f}",
                "at least 8",
                ratio >= 8,
                {"ratio": ratio},
            )

    async def second(self, rows: int, seconds: float, peak_mb: float | None) -> None:
        """Measure an apply that has nothing to do, and count its calls in another one."""
        usage = self._measure(f"second-apply-{rows}", apply_command(), 120)
        with counting(self.servers.api) as (api, counts):
            log = self.servers.directory / f"counted-apply-{rows}.log"
            env = self.servers.environment(api)
            measure(apply_command(), env, log, 300)
        await self._expect_deployments(rows)
        if not counts.calls:
            raise BenchmarkError("no call went through the counting proxy")
        name = f"second apply of the same {rows:,}"
        self.figures.add(
            f"{name}, whole process",
            f"{usage.seconds:.2f} s",
            f"at most {seconds:.0f} s",
            usage.seconds <= seconds,
            _numbers(usage),
        )
        writes = counts.writes.total()
        self.figures.add(
            f"{name}, write calls to Prefect",
            f"{writes} (and {counts.calls.total() - writes} reads)",
            "0",
            writes == 0,
            {"writes": dict(counts.writes), "calls": dict(counts.calls)},
        )
        if peak_mb is not None:
            self.figures.add(
                f"{name}, peak memory",
                f"{usage.peak_mb:.0f} MB",
                f"at most {peak_mb:.0f} MB",
                usage.peak_mb <= peak_mb,
            )

    async def edits(self, count: int, seed: int) -> None:
        """Measure edits of one row among 1,000 until the new runs are in Prefect."""
        found = await measure_edits(self.servers, watch_command(), count, seed)
        p50, p95 = found.percentile(0.5), found.percentile(0.95)
        self.figures.add(
            f"one row of {ROWS:,} changed by SQL, until its new runs are in Prefect "
            f"(p95 of {count} edits)",
            f"{p95:.2f} s (p50 {p50:.2f} s, longest {found.seconds[-1]:.2f} s)",
            "at most 2 s",
            p95 <= 2,
            {"p50": p50, "p95": p95, "max": found.seconds[-1], "seed": seed},
        )

    async def many(self) -> None:
        """Bring the rows to 10,000, and measure the first and the second apply of those."""
        added = MANY_ROWS - ROWS
        usage = await self._apply_new(added, ROWS)
        self.figures.add(
            f"`rota apply`, cold, {added:,} more definitions",
            f"{usage.seconds / added * 1000:.1f} ms each ({usage.seconds:.0f} s)",
            values={"count": added, **_numbers(usage)},
        )
        await self.second(MANY_ROWS, 15, 400)

    # -- what they are made of

    async def _apply_new(self, count: int, since: int) -> Usage:
        connection = await self.servers.rota()
        try:
            await insert(connection, samples(count, since))
        finally:
            await connection.close()
        usage = self._measure(f"cold-apply-{count}", apply_command(), 60 + count * 0.2)
        await self._expect_deployments(since + count)
        return usage

    def _measure(
        self, name: str, command: list[str], patience_seconds: float, cwd: Path = PROJECT
    ) -> Usage:
        say(name)
        log = self.servers.directory / f"{name}.log"
        return measure(command, self.servers.environment(), log, patience_seconds, cwd)

    async def _expect_deployments(self, count: int) -> None:
        connection = await self.servers.prefect()
        try:
            found = await connection.fetchval("select count(*) from deployment")
        finally:
            await connection.close()
        if found != count:
            logs = sorted(self.servers.directory.glob("*.log"), key=os.path.getmtime)
            raise BenchmarkError(
                f"Prefect holds {found} deployments, not {count}: {logs[-1].read_text()[-2000:]}"
            )

    async def _clear(self) -> None:
        """Take the other side's deployments away, so that nothing of them burdens the server."""
        connection = await self.servers.prefect()
        try:
            await connection.execute("delete from flow_run")
            await connection.execute("delete from deployment")
            await connection.execute("delete from work_queue where name <> 'default'")
        finally:
            await connection.close()


def apply_command() -> list[str]:
    return _rota("apply", "--json")


def watch_command() -> list[str]:
    return _rota("watch")


def _rota(*arguments: str) -> list[str]:
    return python("-m", "scripts.rota", *arguments)


async def run(servers: Servers, options: argparse.Namespace) -> Figures:
    """Carry out what `options` ask for."""
    benchmark = Benchmark(servers)
    each = await benchmark.deploy(options.deploys) if options.deploys else None
    await benchmark.cold(each)
    await benchmark.second(ROWS, 3, None)
    if options.edits:
        await benchmark.edits(options.edits, options.seed)
    if options.large:
        await benchmark.many()
    return benchmark.figures


def _numbers(usage: Usage) -> dict[str, object]:
    return {
        "seconds": usage.seconds,
        "cpu_seconds": usage.cpu_seconds,
        "peak_mb": usage.peak_mb,
    }


@contextmanager
def _directory(keep: bool) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="rota-bench-"))
    directory.chmod(0o755)  # PostgreSQL's own user has to get through
    try:
        yield directory
    finally:
        if keep:
            say(f"Logs and databases are in {directory}.")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--deploys",
        type=int,
        default=100,
        metavar="N",
        help="how many deployments `prefect deploy --all` makes (100; 0 leaves it out)",
    )
    parser.add_argument(
        "--full",
        action="store_const",
        dest="deploys",
        const=ROWS,
        help="the same as --deploys 1000; takes minutes",
    )
    parser.add_argument(
        "--large", action="store_true", help="10,000 definitions as well; takes minutes"
    )
    parser.add_argument(
        "--edits", type=int, default=50, metavar="N", help="how many rows to edit (50)"
    )
    parser.add_argument("--seed", type=int, default=2, metavar="N", help="of the edits' choice (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", action="store_true", help="keep logs and databases")
    return parser.parse_args(arguments)


def main() -> int:
    options = _options(sys.argv[1:])
    # SIGINT too: left to asyncio, it would wait for the end of the process that is measured.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    machine = Machine.this(shlex.join(["scripts/bench", *sys.argv[1:]]))
    try:
        with _directory(options.keep) as directory, started(directory) as servers:
            figures = asyncio.run(run(servers, options))
    except BenchmarkError as error:
        say(f"scripts/bench: {error}")
        return 1
    print(markdown(figures, machine))
    if options.json:
        found = document(figures, machine)
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
