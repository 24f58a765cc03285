"""A whole `rota up`, for tests to call, kill and stop."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from scripts.db import libpq
from store import embedded

ROTA = [sys.executable, "-m", "scripts.rota"]


@dataclass
class Up:
    """One `rota up` on a home and ports of its own."""

    home: Path
    prefect: int
    service: int
    api: int
    process: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "PREFECT_" not in name}
        return kept | {
            "ROTA_HOME": str(self.home),
            "ROTA_PREFECT_PORT": str(self.prefect),
            "ROTA_SERVICE_PORT": str(self.service),
            "ROTA_API_PORT": str(self.api),
        }

    def start(self) -> None:
        self.output = self.home.parent / "up.log"
        with self.output.open("w") as log:
            self.process = subprocess.Popen(
                [*ROTA, "up"],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def rota(self, *arguments: str) -> str:
        environment = self.environment
        del environment["ROTA_PREFECT_PORT"]  # a second terminal knows only the home
        done = subprocess.run(
            [*ROTA, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, 2), done.stderr
        return done.stdout

    def sql(self, statement: str) -> str:
        """Runs a statement in psql; to ask `rota` for it a hundred times would take too long."""
        address = embedded.running_url(self.home / "postgres")
        if address is None:
            raise OSError("the database does not run")
        done = subprocess.run(
            [embedded.BIN / "psql", libpq(address).render_as_string(), "-Atc", statement],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout.strip()

    def stop(self, by: signal.Signals) -> float:
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(by)
        self.process.wait(30)
        return time.monotonic() - began

    def child(self, *words: str) -> psutil.Process:
        assert self.process is not None
        for process in psutil.Process(self.process.pid).children(recursive=True):
            if set(words) <= set(process.cmdline()):
                return process
        raise AssertionError(f"no child has {words}: {self.output.read_text()}")

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Calls the API, with the token that `up` has made."""
        token = (self.home / "api.token").read_text().strip()
        return httpx.request(
            method,
            f"http://127.0.0.1:{self.api}/api/v1/{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )

    def runs(self) -> int:
        return int(self.sql("select coalesce(sum(run_count), 0) from definitions") or 0)

    @property
    def left(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                of_home = process.environ().get("ROTA_HOME") == str(self.home)
                if of_home or any(str(self.home) in part for part in process.cmdline()):
                    found.append(" ".join(process.cmdline()))
        return found


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> float:
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with contextlib.suppress(
            AssertionError, ValueError, OSError, httpx.HTTPError, psutil.Error
        ):
            if condition():
                return time.monotonic() - began
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {what}")


def free_ports() -> list[int]:
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextlib.contextmanager
def running(root: Path) -> Iterator[Up]:
    """Yields a `rota up` of which nothing is left afterwards."""
    up = Up(root / "home", *free_ports())
    up.start()
    try:
        yield up
    finally:
        if up.process and up.process.poll() is None:
            up.stop(signal.SIGTERM)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(up.home) in part for part in process.cmdline()):
                    process.kill()
