"""1,000 hosts, looked at over SSH: a sweep of `health_checker` beside two other ways.

The hosts are asyncssh servers in two processes of their own, one on each address of 127.0.0.0/8;
they answer any command with the vital signs of a healthy host. They run on the same machine as
what is measured, and take about as much of its processors. Each way logs in to every host with
the same key and runs one command: the sweep, `parallel-ssh` (in an environment of its own, which
pip fills), and OpenSSH's client in 50 processes. The first and the last verify the host's key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from benchmarks.apply import _directory, _stop
from benchmarks.processes import (
    BenchmarkError,
    Usage,
    environment,
    free_port,
    measure,
    python,
    running,
    wait_until,
)
from benchmarks.report import Figures, Machine, document, markdown, say

PROCESSES = 2
AT_A_TIME = 200
CLIENTS = 50
USER = "root"
FIRST = IPv4Address("127.20.0.1")
READY = "ready"

MOST_SECONDS, MOST_MB, MOST_MORE_SECONDS = 30, 500, 15

VITALS = """[clock]
{seconds} 000000000
[load]
0.10 0.20 0.30 1/200 4000
[cores]
2
[memory]
MemTotal:        2000000 kB
MemAvailable:    1500000 kB
[uptime]
86400.00 100000.00
[docker]
absent
[disks]
Filesystem     1024-blocks     Used Available Capacity Mounted on
/dev/vda1         10000000  2000000   8000000      20% /
[end]
"""

PARALLEL_SSH = """
import json, sys
from pssh.clients import ParallelSSHClient
site = json.load(open(sys.argv[1]))
client = ParallelSSHClient(
    site["hosts"], user=site["user"], port=site["port"], pkey=site["key"],
    pool_size=site["at_a_time"], allow_agent=False, num_retries=1,
)
found = client.run_command(site["command"], stop_on_errors=False)
client.join(found)
print(sum(one.exception is None and "[end]" in list(one.stdout) for one in found), "up")
"""


@dataclass(frozen=True)
class Site:
    """The hosts, and what it takes to log in to them.

    Attributes:
        directory: Where its files are.
        hosts: Their addresses.
        port: The port of all of them.
        silent: The port at which the same addresses take connections, and say nothing.
    """

    directory: Path
    hosts: list[str]
    port: int
    silent: int

    @property
    def key(self) -> Path:
        """The file of the key to log in with."""
        return self.directory / "key"

    @property
    def known_hosts(self) -> Path:
        """The file of the hosts' keys."""
        return self.directory / "known_hosts"

    def prepare(self) -> None:
        """Make the keys.

        Raises:
            BenchmarkError: OpenSSH's client is missing.
        """
        if shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
            raise BenchmarkError("OpenSSH's client is missing; apt-get install openssh-client")
        for name in ("key", "host_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
            subprocess.run([*command, str(self.directory / name)], check=True)
        host_key = " ".join((self.directory / "host_key.pub").read_text().split()[:2])
        self.known_hosts.write_text(
            "".join(f"[{host}]:{self.port} {host_key}\n" for host in self.hosts)
        )
        document = {
            "user": USER,
            "hosts": self.hosts,
            "port": self.port,
            "silent": self.silent,
            "key": str(self.key),
            "known_hosts": str(self.known_hosts),
            "at_a_time": AT_A_TIME,
            "command": "true",
        }
        (self.directory / "site.json").write_text(json.dumps(document))
        (self.directory / "hosts").write_text("\n".join(self.hosts))
        (self.directory / "parallel.py").write_text(PARALLEL_SSH)


# -- the processes that the benchmark starts


async def _serve(site: dict[str, Any], number: int) -> None:
    """Be every `PROCESSES`-th of the hosts, and as many that say nothing, for ever."""
    import asyncssh

    directory = Path(site["key"]).parent
    options = asyncssh.SSHServerConnectionOptions(
        server_host_keys=[str(directory / "host_key")],
        authorized_client_keys=str(directory / "key.pub"),
        process_factory=_answer,
        encoding=None,
    )
    for host in site["hosts"][number::PROCESSES]:
        # All of them are started within a second, so more may wait than the usual hundred.
        await asyncssh.listen(host, site["port"], options=options, backlog=400)
        await asyncio.start_server(_say_nothing, host, site["silent"])
    print(READY, flush=True)
    await asyncio.Event().wait()


async def _answer(process: Any) -> None:
    process.stdout.write(VITALS.format(seconds=int(time.time())).encode())
    process.exit(0)


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def _sweep(site: dict[str, Any], hanging: int) -> None:
    """Look at all hosts, as the duty does; every `hanging`-th of them, if any, says nothing."""
    from blocks.ssh import SSHAccess
    from flows.health_checker import Server, Sweep

    access = SSHAccess(
        username=site["user"],
        private_key=site["key_text"],
        known_hosts=site["known_hosts_text"],
    )
    servers = [
        Server(
            handle=f"s{number}",
            public_ip=host,
            ssh_port=site["silent" if hanging and number % hanging == 0 else "port"],
        )
        for number, host in enumerate(site["hosts"])
    ]
    sweep = Sweep(access, {}, site["at_a_time"], deadline_seconds=300, skew_seconds=30)
    began = time.perf_counter()
    checks = await sweep.over(servers)
    seconds = time.perf_counter() - began
    healthy = sum(one.outcome == "up" and not one.problems for one in checks)
    found = Counter(one.outcome for one in checks)
    print(json.dumps({"seconds": seconds, "healthy": healthy, "outcomes": found}))


def _be(part: list[str]) -> None:
    """Be one of the processes: `serve SITE NUMBER` or `sweep SITE HANGING`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    what, path, number = part
    site = json.loads(Path(path).read_text())
    for name in ("key", "known_hosts"):
        site[f"{name}_text"] = Path(site[name]).read_text()
    asyncio.run((_serve if what == "serve" else _sweep)(site, int(number)))


# -- the measurements


class Benchmark:
    """The measurements, in order."""

    def __init__(self, site: Site, patience_seconds: float) -> None:
        self.site = site
        self.patience_seconds = patience_seconds
        self.figures = Figures()

    def sweep(self) -> None:
        """Sweep a fleet that answers, and one of which a tenth hangs."""
        hosts = len(self.site.hosts)
        whole, found = self._swept(hanging=0)
        if found["healthy"] != hosts:
            raise BenchmarkError(f"of {hosts} hosts, the sweep found {found}")
        self._add(f"a sweep of {hosts:,} hosts, whole process", whole, MOST_SECONDS, MOST_MB)
        again, found = self._swept(hanging=10)
        if found["outcomes"] != {"up": hosts - -(-hosts // 10), "down": -(-hosts // 10)}:
            raise BenchmarkError(f"of {hosts} hosts of which a tenth hangs, it found {found}")
        more = again.seconds - whole.seconds
        self.figures.add(
            "the same, of which a tenth takes the connection and says nothing",
            f"{again.seconds:.1f} s, {more:.1f} s more",
            f"at most {MOST_MORE_SECONDS} s more",
            more <= MOST_MORE_SECONDS,
            {"seconds": again.seconds, "more": more},
        )

    def parallel_ssh(self, interpreter: str) -> None:
        """Have `parallel-ssh` do the same; it does not verify whom it talks to."""
        script = self.site.directory / "parallel.py"
        usage = self._measured([interpreter, str(script), str(self.site.directory / "site.json")])
        self._all_up(usage, int(usage.output.split()[-2]), "parallel-ssh")
        name = f"`parallel-ssh`, {AT_A_TIME} at a time, host keys not verified"
        self._add(name, usage)

    def openssh(self) -> None:
        """Have OpenSSH's client do the same, in 50 processes."""
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.site.known_hosts),
            "ConnectTimeout": "10",
        }
        command = ["xargs", "-a", str(self.site.directory / "hosts"), "-P", str(CLIENTS), "-I", "%"]
        command += ["ssh", "-F", "none", "-i", str(self.site.key), "-p", str(self.site.port)]
        command += [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        usage = self._measured([*command, f"{USER}@%", "true"])
        self._all_up(usage, usage.output.count("[end]"), "OpenSSH")
        self._add(f"OpenSSH's client, {CLIENTS} processes", usage, peak=False)

    def _swept(self, hanging: int) -> tuple[Usage, dict[str, Any]]:
        path = str(self.site.directory / "site.json")
        usage = self._measured(
            python("-m", "benchmarks.fleet", "--be", "sweep", path, str(hanging))
        )
        found: dict[str, Any] = json.loads(usage.output.splitlines()[-1])
        return usage, found

    def _measured(self, command: list[str]) -> Usage:
        log = self.site.directory / "measured.log"
        return measure(command, environment(), log, self.patience_seconds)

    def _all_up(self, usage: Usage, found: int, who: str) -> None:
        if found != len(self.site.hosts):
            tail = usage.output[-500:]
            raise BenchmarkError(f"{who} reached {found} of {len(self.site.hosts)} hosts: {tail}")

    def _add(
        self,
        name: str,
        usage: Usage,
        seconds: int | None = None,
        mb: int | None = None,
        *,
        peak: bool = True,
    ) -> None:
        memory = f", peak {usage.peak_mb:.0f} MB" if peak else ""
        self.figures.add(
            name,
            f"{usage.seconds:.1f} s, {usage.cpu_seconds:.1f} s of CPU{memory}",
            f"at most {seconds} s, {mb} MB" if seconds else "",
            usage.seconds <= seconds and usage.peak_mb <= mb if seconds and mb else None,
            {"seconds": usage.seconds, "cpu": usage.cpu_seconds, "peak_mb": usage.peak_mb},
        )


def _parallel_ssh(directory: Path) -> str:
    """Return an interpreter that has `parallel-ssh`, whose parts would hide modules of ours."""
    say("Installing parallel-ssh ...")
    place = directory / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    interpreter = str(place / "bin" / "python")
    command = [interpreter, "-m", "pip", "install", "--quiet", "parallel-ssh"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"parallel-ssh cannot be installed: {done.stderr[-1000:]}")
    return interpreter


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench fleet", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000, help="how many (1000)")
    parser.add_argument(
        "--parallel-ssh", metavar="PYTHON", help="an interpreter that has it, instead of a new one"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", action="store_true", help="keep logs")
    parser.add_argument("--be", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _run(directory: Path, options: argparse.Namespace) -> Figures:
    interpreter = options.parallel_ssh or _parallel_ssh(directory)
    hosts = [str(FIRST + number) for number in range(options.hosts)]
    site = Site(directory, hosts, free_port(), free_port())
    site.prepare()
    benchmark = Benchmark(site, patience_seconds=300)
    with ExitStack() as stack:
        for number in range(PROCESSES):
            log = directory / f"hosts-{number}.log"
            path = str(directory / "site.json")
            command = python("-m", "benchmarks.fleet", "--be", "serve", path, str(number))
            process = stack.enter_context(running(command, environment(), log))
            wait_until(lambda log=log: READY in log.read_text(), "the hosts", 60, process, log)  # type: ignore[misc]
        benchmark.sweep()
        benchmark.parallel_ssh(interpreter)
        benchmark.openssh()
    return benchmark.figures


def main() -> int:
    """Measure, and print the table."""
    signal.signal(signal.SIGTERM, _stop)
    options = _options(sys.argv[1:])
    if options.be:
        _be(options.be)
        return 0
    machine = Machine.this(shlex.join(["scripts/bench", "fleet", *sys.argv[1:]]))
    try:
        with _directory(options.keep) as directory:
            figures = _run(directory, options)
    except BenchmarkError as error:
        say(f"scripts/bench fleet: {error}")
        return 1
    print(markdown(figures, machine))
    print(f"\nLoad at the end: {os.getloadavg()[0]:.2f}.")
    if options.json:
        options.json.write_text(json.dumps(document(figures, machine), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
