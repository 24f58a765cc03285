"""`rota up`: everything that one machine needs, in one foreground process tree."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from scripts.server import PROJECT
from store.settings import Settings

STOP_SECONDS = 3.5
"""How long the children have to stop by themselves; then they are killed."""

LOG_BYTES = 10_000_000


class CannotStart(Exception):
    """Something that `up` needs is not to be had; the message says what to do."""


class Child:
    """One process that is started again whenever it dies."""

    def __init__(self, name: str, arguments: Sequence[str], env: dict[str, str], log: Path):
        self.name = name
        self.arguments = [sys.executable, *arguments]
        self.env = env
        self.log = log
        self.process: asyncio.subprocess.Process | None = None
        self._family: list[psutil.Process] = []

    async def start(self) -> None:
        """Start the process; what it prints goes to its log."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self.arguments,
                env=self.env,
                cwd=PROJECT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A Ctrl-C reaches the foreground's whole group; the order of stopping is ours.
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )

    async def keep(self, say: Callable[[str], None]) -> None:
        """Start the process again whenever it ends, the more slowly the oftener; `say` so."""
        pause = 1.0
        while True:
            assert self.process is not None
            began = time.monotonic()
            code = await self.process.wait()
            pause = 1.0 if time.monotonic() - began > 60 else min(pause * 2, 30.0)
            say(f"{self.name} ended with {code} (see {self.log}); starting it again")
            await asyncio.sleep(pause)
            await self.start()

    def terminate(self) -> None:
        """Ask the process and what it started to stop."""
        if self.process is None or self.process.returncode is not None:
            return
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            own = psutil.Process(self.process.pid)
            self._family = [own, *own.children(recursive=True)]
            self.process.terminate()

    def kill(self) -> None:
        """End what has not stopped, the process's own children among it."""
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left."""
        return not any(
            process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            for process in self._family
        )


def _die_with_parent() -> Callable[[], None] | None:
    """Have the kernel stop a child whose parent was killed; only Linux can."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    set_parent_death_signal = 1

    def prepare() -> None:
        libc.prctl(set_parent_death_signal, signal.SIGTERM)

    return prepare


def processes_of_runs() -> Iterator[psutil.Process]:
    """Yield the processes that carry out runs of this house."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found = process.environ()
            carries = found.get("PREFECT__FLOW_RUN_ID", "")
            ours = found.get("ROTA_HOME") == os.environ.get("ROTA_HOME")
            if carries and ours:
                yield process


async def stop(children: Sequence[Child], seconds: float = STOP_SECONDS) -> None:
    """Stop all children, within `seconds` and a moment."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(child.gone for child in children):
            break
        await asyncio.sleep(0.05)
    for child in children:
        child.kill()
    for process in processes_of_runs():  # begun after the others were asked to stop
        with contextlib.suppress(psutil.Error):
            process.kill()
    for child in children:
        if child.process is not None:
            await child.process.wait()


@contextlib.contextmanager
def claimed(settings: Settings) -> Iterator[IO[str]]:
    """Hold the home directory for this process alone.

    Raises:
        CannotStart: It cannot be written, or another `up` runs on it.
    """
    import fcntl

    home = settings.home.resolve()
    try:
        (home / "logs").mkdir(parents=True, exist_ok=True)
        lock = (home / "up.lock").open("w")
    except OSError as error:
        raise CannotStart(
            f"{home} cannot be written ({error.strerror}); set ROTA_HOME, or use --home, to name a "
            "directory that can."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotStart(
                f"Rota already runs on {home}; stop it, or name another directory with ROTA_HOME "
                "or --home."
            ) from error
        yield lock


async def wait_for_port(port: int, what: str, flag: str) -> None:
    """Wait a moment for `port`: a predecessor that was killed may be on its way out.

    Raises:
        CannotStart: Somebody keeps it.
    """
    deadline = time.monotonic() + 5
    while not _is_free(port):
        if time.monotonic() > deadline:
            raise CannotStart(
                f"Port {port}, for {what}, is taken; stop what listens there, or choose another "
                f"with --{flag} or ROTA_{flag.replace('-', '_').upper()}."
            )
        await asyncio.sleep(0.2)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of this tree: Prefect's own state under the home as well."""
    kept = {
        name: value
        for name, value in os.environ.items()
        # A profile or key of Prefect Cloud would send the deployments there.
        if name not in ("PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_API_URL")
    }
    home = settings.home.resolve()
    return kept | {
        "PREFECT_API_URL": api_url(settings),
        "PREFECT_HOME": str(home / "prefect"),
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "ROTA_HOME": str(home),
        # SQLite lets one write at a time; more calls at once only make it answer 503.
        "ROTA_CONCURRENCY": os.environ.get("ROTA_CONCURRENCY", "1"),
    }


def api_url(settings: Settings) -> str:
    """Return the address of the Prefect server's API."""
    return f"http://127.0.0.1:{settings.prefect_port}/api"


def announce(settings: Settings, database_url: str) -> None:
    """Write down for commands in other terminals where everything is."""
    said: dict[str, Any] = {
        "pid": os.getpid(),
        "created": psutil.Process().create_time(),
        "prefect_api_url": api_url(settings),
        "database_url": database_url,
    }
    path = settings.pid_file
    path.touch(mode=0o600)  # the address may hold a password
    path.write_text(json.dumps(said))
