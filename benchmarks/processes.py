"""Processes that the benchmark starts, measures, and never leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Usage:
    """What one process has cost, from its start to its end.

    Attributes:
        seconds: By the wall's clock.
        cpu_seconds: Of the process itself, user and system.
        peak_mb: The most memory that it held at once, in MB (10**6 bytes).
        output: What it wrote to standard output and standard error.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    output: str


def environment(**values: str) -> dict[str, str]:
    """Return this process's environment without its Prefect and Rota settings, and with `values`.

    What somebody has set up for daily work must neither change the figures nor be written to.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "ROTA_", "PG"))
    }
    return {**kept, "DO_NOT_TRACK": "1", **values}


def python(*arguments: str) -> list[str]:
    """Return the command that runs this project's Python."""
    return [sys.executable, *arguments]


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], log: Path, stop: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` beside the block, in a process group of its own that ends with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=PROJECT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process, stop)


def _end(process: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, stop)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=15)
    # Its children may outlive it, and it may not have listened.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measure(
    command: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    patience_seconds: float,
    cwd: Path = PROJECT,
) -> Usage:
    """Run `command` to its end and return what it cost.

    The peak is what the kernel says of the process (`ru_maxrss`). A fork starts with its
    parent's, so the benchmark itself stays small: it does not import Prefect.

    Raises:
        BenchmarkError: It failed, or took longer than `patience_seconds`.
    """
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            seconds = time.perf_counter() - began
            if pid:
                break
            if seconds > patience_seconds:
                raise BenchmarkError(
                    f"{_said(command)} took longer than {patience_seconds:.0f} s: {_tail(log)}"
                )
            time.sleep(0.005)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.returncode is None:
            process.wait()
    if process.returncode:
        raise BenchmarkError(f"{_said(command)} ended with {process.returncode}: {_tail(log)}")
    return Usage(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss * 1024 / 1e6,
        output=log.read_text(errors="replace"),
    )


def wait_until(
    ready: Callable[[], bool],
    what: str,
    patience_seconds: float,
    process: subprocess.Popen[bytes] | None = None,
    log: Path | None = None,
) -> None:
    """Return once `ready` holds.

    Raises:
        BenchmarkError: It does not within `patience_seconds`, or `process` has ended.
    """
    deadline = time.monotonic() + patience_seconds
    while not ready():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            how = "ended" if ended else f"is not there after {patience_seconds:.0f} s"
            raise BenchmarkError(f"{what} {how}{f': {_tail(log)}' if log else ''}")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _said(command: Sequence[str]) -> str:
    return " ".join(part if len(part) < 80 else f"{part[:77]}..." for part in command)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].strip() or "it said nothing"
