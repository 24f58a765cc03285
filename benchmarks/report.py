"""Figures, and the machine that they hold for."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import psutil


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name: What was measured.
        measured: How much, with its unit.
        required: How much it has to be, if anything is required.
        met: Whether it is so; None where nothing is required.
        values: The bare numbers, for programs.
    """

    name: str
    measured: str
    required: str = ""
    met: bool | None = None
    values: dict[str, Any] | None = None


class Figures(list[Figure]):
    """The lines of the table, each told as soon as it is known."""

    def add(
        self,
        name: str,
        measured: str,
        required: str = "",
        met: bool | None = None,
        values: dict[str, Any] | None = None,
    ) -> None:
        """Append a line, and print it on standard error."""
        self.append(Figure(name, measured, required, met, values))
        say(f"  {name}: {measured}")


def say(text: str) -> None:
    """Print progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Machine:
    """What the figures hold for, without which they mean nothing."""

    cores: int
    cpu: str
    memory_gb: float
    system: str
    python: str
    prefect: str
    date: str
    command: str
    load: float

    @classmethod
    def this(cls, command: str) -> Machine:
        """Describe this machine, now."""
        return cls(
            cores=len(os.sched_getaffinity(0)),
            cpu=_cpu(),
            memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
            system=platform.platform(terse=True),
            python=platform.python_version(),
            prefect=version("prefect"),
            date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            command=command,
            load=round(os.getloadavg()[0], 2),
        )


def markdown(figures: list[Figure], machine: Machine) -> str:
    """Return the table and, below it, the machine."""
    lines = ["| Figure | Required | Measured |", "|---|---|---|"]
    for one in figures:
        missed = " (missed)" if one.met is False else ""
        lines.append(f"| {one.name} | {one.required} | {one.measured}{missed} |")
    lines += [
        "",
        f"`{machine.command}` on {machine.date}: {machine.cores} cores ({machine.cpu}), "
        f"{machine.memory_gb} GB of memory, {machine.system}, load {machine.load} at the start; "
        f"Python {machine.python}, Prefect {machine.prefect}.",
    ]
    return "\n".join(lines)


def document(figures: list[Figure], machine: Machine) -> dict[str, Any]:
    """Return the same for programs."""
    return {"machine": asdict(machine), "figures": [asdict(one) for one in figures]}


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
