"""Flows for the workers to run; each notes at once that it has begun, and when."""

from __future__ import annotations

import asyncio
import os
import time

from prefect import flow, runtime

STARTS = "BENCHMARK_STARTS"
"""The variable that names the file of the notes."""


@flow
async def trivial() -> None:
    """Begin, and end."""
    note(time.time())


@flow
async def sleep(seconds: float) -> None:
    """Begin, and wait as a flow does that has asked somebody else to do the work."""
    note(time.time())
    await asyncio.sleep(seconds)


def note(began: float) -> None:
    # One write of one line: several processes may do so at once.
    with open(os.environ[STARTS], "ab", buffering=0) as file:
        file.write(f"{runtime.flow_run.id} {began:.4f}\n".encode())
