"""Rota's in-process worker beside Prefect's process worker, in one run, against one server.

Prefect's server runs as Rota starts it (`scripts.server`), on a private PostgreSQL of Debian's.
Each phase has a worker of its own, in a process of its own, started as anybody would start it.
Nothing of the machine's own Prefect or Rota is touched, and every process ends with this one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from benchmarks import server_profile
from benchmarks.apply import _directory, _stop
from benchmarks.processes import BenchmarkError
from benchmarks.report import Figures, Machine, document, markdown, say
from benchmarks.servers import Servers, started
from benchmarks.wire import counting

if TYPE_CHECKING:
    from benchmarks.worker_site import Outcome, Site

INLINE, PROCESS = "inline", "process"
PHASES = ("runs", "calls", "sleepers", "starts")
CREATION = 0.05
"""Seconds to allow for the creation of one run ahead of its time."""

DEFAULTS: dict[str, float] = {
    "starts": 200,
    "process_starts": 200,
    "over": 120,
    "paced": 12,
    "runs": 500,
    "process_runs": 40,
    "sleepers": 300,
    "rate": 5,
    "sleep": 90,
    "counted": 100,
    "process_counted": 10,
    "lead": 12,
}
QUICK: dict[str, float] = {
    "starts": 20,
    "process_starts": 6,
    "over": 12,
    "paced": 0,
    "runs": 50,
    "process_runs": 6,
    "sleepers": 30,
    "rate": 5,
    "sleep": 8,
    "counted": 20,
    "process_counted": 3,
    "lead": 2,
}


class Benchmark:
    """The measurements, each with a worker of its own."""

    def __init__(self, servers: Servers, options: argparse.Namespace) -> None:
        self.servers = servers
        self.options = options
        self.figures = Figures()
        self.profile = ""

    # -- the steps

    async def latency(self) -> None:
        """Measure how late runs begin that fall due one after the other."""
        count, over = self.options.starts, self.options.over
        inline = await self._starts(INLINE, count, over)
        theirs = [(self.options.process_starts, over)]
        if self.options.paced:
            # At the pace above each run has to wait for those before it: this worker needs about
            # two CPU seconds for each. Here it has them.
            theirs.append((self.options.paced, 5 * self.options.paced))
        for runs, seconds in theirs:
            ratio = await self._starts(PROCESS, runs, seconds) / inline
            self.figures.add(
                f"times earlier than those {runs}, p95 beside p95",
                f"{ratio:.1f}",
                "at least 10",
                ratio >= 10,
                {"ratio": ratio},
            )

    async def _starts(self, kind: str, count: int, over: float) -> float:
        from benchmarks.worker_site import at_work

        async with at_work(self.servers, kind, f"starts-{kind}-{count}") as site:
            await site.deploy("trivial", kind, {})
            first = self._first(count)
            due = [first + number * over / count for number in range(count)]
            created = await site.schedule(due, self.options.lead)
            outcome = await site.outcome(created, due[-1] - time.time() + 120 + 10 * count)
        p95 = outcome.lateness.percentile(0.95)
        inline = kind == INLINE
        self.figures.add(
            f"{kind}: start after its instant, {count} runs over {over:.0f} s",
            _lateness(outcome),
            "p95 at most 1 s" if inline else "",
            p95 <= 1 and not outcome.lost + outcome.doubled if inline else None,
            _numbers(outcome, site),
        )
        return p95

    async def throughput(self, kind: str, count: int) -> None:
        """Measure how soon runs have ended that all fall due at once, and what each costs."""
        from benchmarks.worker_site import at_work

        name = f"runs-{kind}-{count}"
        async with at_work(self.servers, kind, name) as site:
            await site.deploy("trivial", kind, {})
            instant = self._first(count)
            created = await site.schedule([instant] * count, self.options.lead)
            before = site.cpu()
            profiled = self.options.profile and kind == INLINE
            if profiled:
                await asyncio.sleep(instant - time.time() - 1)
            with server_profile.of(self.servers, self.options.py_spy, profiled) as profile:
                outcome = await site.outcome(created, instant - time.time() + 120 + 10 * count)
            await site.quiet()
            after = site.cpu()
        self.profile += profile.text
        seconds = outcome.ended - instant
        worker, server = ((then - now) / count for now, then in zip(before, after, strict=True))
        note = _note(kind, count, self.options.runs)
        self.figures.add(
            f"{kind}: {count} runs due at once{note}",
            f"{count / seconds:.2f} runs/s ({seconds:.1f} s){_odd(outcome)}",
            values={"runs_per_second": count / seconds, "seconds": seconds}
            | _numbers(outcome, site),
        )
        self.figures.add(f"{kind}: start after the instant, of those", _lateness(outcome))
        self.figures.add(
            f"{kind}: CPU for each of those runs",
            f"worker {worker * 1000:.0f} ms, server {server * 1000:.0f} ms",
            values={"worker_cpu_seconds": worker, "server_cpu_seconds": server},
        )
        self.figures.add(
            f"{kind}: peak memory, of those",
            f"{site.watch.own_mb:.0f} MB, with children {site.watch.tree_mb:.0f} MB "
            f"(at most {site.watch.children} processes)",
        )

    async def calls(self, kind: str, count: int) -> None:
        """Count the calls to the server, beside another few runs due at once."""
        from benchmarks.worker_site import at_work

        with counting(self.servers.api) as (api, counts):
            async with at_work(self.servers, kind, f"calls-{kind}-{count}", api) as site:
                await site.deploy("trivial", kind, {})
                instant = self._first(count)
                created = await site.schedule([instant] * count, self.options.lead)
                before = Counter(counts.calls)
                outcome = await site.outcome(created, instant - time.time() + 120 + 10 * count)
                await site.quiet()
                passed = Counter(counts.calls) - before
        if not passed:
            raise BenchmarkError("no call went through the counting proxy")
        most = ", ".join(f"`{call}` {n / count:.2f}" for call, n in passed.most_common(3))
        self.figures.add(
            f"{kind}: calls to the server for each of {count} runs due at once",
            f"{passed.total() / count:.1f}, most often {most}{_odd(outcome)}",
            values={"runs": count, "calls": dict(passed.most_common())},
        )

    async def sleepers(self) -> None:
        """Measure runs that wait, all of them at once, in one process."""
        from benchmarks.worker_site import at_work

        count, rate = self.options.sleepers, self.options.rate
        async with at_work(self.servers, INLINE, "sleepers") as site:
            await site.deploy("sleep", INLINE, {"seconds": self.options.sleep})
            first = self._first(count)
            due = [first + number / rate for number in range(count)]
            created = await site.schedule(due, self.options.lead)
            outcome = await site.outcome(created, due[-1] + self.options.sleep - time.time() + 120)
        late = outcome.lateness.seconds
        self.figures.add(
            f"inline: start after its instant, {count} runs of {self.options.sleep:.0f} s, "
            f"{rate:.0f} a second, up to {outcome.together} open at once",
            _lateness(outcome),
            "each within 2 s",
            late[-1] <= 2 and late[0] >= 0 and not outcome.lost + outcome.doubled,
            _numbers(outcome, site),
        )
        memory, threads = site.watch.own_mb, site.watch.threads
        self.figures.add(
            "inline: the worker's peak memory then",
            f"{memory:.0f} MB",
            "at most 350 MB",
            memory <= 350,
        )
        self.figures.add(
            "inline: the worker's threads then, at most",
            f"{threads}",
            "fewer than 60",
            threads < 60,
        )

    # -- what they are made of

    def _first(self, count: int) -> float:
        """Return the first instant of `count` runs that are about to be created.

        It lies beyond what Prefect's worker takes ahead (ten seconds), so that neither kind
        begins before all of them are there.
        """
        first: float = time.time() + self.options.lead + 1 + count * CREATION
        return first


def _lateness(outcome: Outcome) -> str:
    late = outcome.lateness
    return (
        f"p50 {late.percentile(0.5):.2f} s, p95 {late.percentile(0.95):.2f} s, "
        f"longest {late.seconds[-1]:.2f} s{_odd(outcome)}"
    )


def _odd(outcome: Outcome) -> str:
    """Say what must not happen, where it has."""
    lost = f"; {outcome.lost} did not complete" if outcome.lost else ""
    doubled = f"; {outcome.doubled} started twice" if outcome.doubled else ""
    return lost + doubled


def _note(kind: str, count: int, most: int) -> str:
    if kind == PROCESS and count < most:
        return f" (not {most}, which would be {most} processes at once)"
    return ""


def _numbers(outcome: Outcome, site: Site) -> dict[str, object]:
    late = outcome.lateness
    return {
        "p50": late.percentile(0.5),
        "p95": late.percentile(0.95),
        "min": late.seconds[0],
        "max": late.seconds[-1],
        "lost": outcome.lost,
        "doubled": outcome.doubled,
        "open_at_once": outcome.together,
        "worker_peak_mb": site.watch.own_mb,
        "tree_peak_mb": site.watch.tree_mb,
        "threads": site.watch.threads,
        "children": site.watch.children,
        "load": os.getloadavg()[0],
    }


async def run(benchmark: Benchmark) -> None:
    """Carry out what its options ask for."""
    options = benchmark.options
    only = options.only or PHASES
    if "runs" in only:
        await benchmark.throughput(INLINE, options.runs)
        if options.process_runs:
            await benchmark.throughput(PROCESS, options.process_runs)
    if "calls" in only:
        await benchmark.calls(INLINE, options.counted)
        await benchmark.calls(PROCESS, options.process_counted)
    if "sleepers" in only:
        await benchmark.sleepers()
    if "starts" in only:
        await benchmark.latency()


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench workers", description=__doc__)
    for name, kind, said in (
        ("starts", int, "runs one after the other, for the start latency"),
        ("process-starts", int, "as many for the process worker, of about 120 MB each at once"),
        ("over", float, "seconds that those are spread over"),
        ("paced", int, "runs of the process worker one every five seconds; 0 leaves it out"),
        ("runs", int, "runs due at once, for the throughput"),
        ("process-runs", int, "as many for the process worker; 0 leaves it out"),
        ("sleepers", int, "runs that wait, open at once"),
        ("rate", float, "how many of those fall due each second"),
        ("sleep", float, "seconds that each of those waits"),
        ("counted", int, "runs whose calls to the server are counted"),
        ("process-counted", int, "as many of the process worker"),
        ("lead", float, "seconds that all runs exist ahead of the first instant"),
    ):
        default = DEFAULTS[name.replace("-", "_")]
        parser.add_argument(f"--{name}", type=kind, metavar="N", help=f"{said} ({default})")
    parser.add_argument(
        "--only", action="append", choices=PHASES, help="this phase alone; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: a smoke test")
    parser.add_argument(
        "--profile", action="store_true", help="say where the server's time goes, by py-spy"
    )
    parser.add_argument(
        "--py-spy", default="py-spy", metavar="PROGRAM", help="where py-spy is (py-spy)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", action="store_true", help="keep logs and databases")
    quick = parser.parse_args(arguments).quick
    parser.set_defaults(**(QUICK if quick else DEFAULTS))
    return parser.parse_args(arguments)


def main() -> int:
    options = _options(sys.argv[1:])
    # SIGINT too: left to asyncio, it would wait for the end of the phase.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    machine = Machine.this(shlex.join(["scripts/bench", "workers", *sys.argv[1:]]))
    benchmark, status = None, 0
    try:
        with _directory(options.keep) as directory, started(directory) as servers:
            # Prefect's client reads the environment as it is imported, which is why it has not
            # been yet: nobody's own settings are to count.
            environment = servers.environment()
            os.environ.clear()
            os.environ.update(environment)
            benchmark = Benchmark(servers, options)
            asyncio.run(run(benchmark))
    except BenchmarkError as error:
        say(f"scripts/bench workers: {error}")
        status = 1
    if benchmark is None or not benchmark.figures:
        return status
    # Those from before a failure too: they took minutes.
    print(markdown(benchmark.figures, machine))
    print(f"\nLoad at the end: {os.getloadavg()[0]:.2f}.")
    if benchmark.profile:
        print(f"\n{benchmark.profile}")
    if options.json:
        found = document(benchmark.figures, machine)
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return status


if __name__ == "__main__":
    sys.exit(main())
