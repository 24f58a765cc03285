"""Flows for the workers of the tests to run; `KEEP` is a file that they write to."""

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, pause_flow_run, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.variables import Variable


def note(what: str) -> None:
    with Path(os.environ["KEEP"]).open("a") as file:
        file.write(f"{what} {runtime.flow_run.id} {datetime.now(UTC).timestamp():.3f}\n")


def keep() -> list[str]:
    return [line for line in Path(os.environ["KEEP"]).read_text().splitlines() if "hook" in line]


@flow
async def trivial(name: str = "") -> None:
    note("began")


@flow
async def wait(seconds: float = 60) -> None:
    note("began")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note("stopped")
        raise
    finally:
        note("cleaned")
    note("ended")


@flow
def wait_sync(seconds: float = 60) -> None:
    note("began")
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.05)
    finally:
        note("cleaned")
    note("ended")


@flow(retries=3, retry_delay_seconds=60)
async def retry() -> None:
    note("began")
    raise RuntimeError("not yet")


@flow(retries=2, retry_delay_seconds=0)
async def third_time() -> str:
    note("began")
    if runtime.flow_run.run_count < 3:
        raise RuntimeError("not yet")
    return "done"


@flow(timeout_seconds=1)
async def late() -> None:
    note("began")
    await asyncio.sleep(60)


@flow(timeout_seconds=1)
def late_sync() -> None:
    note("began")
    for _ in range(600):
        time.sleep(0.1)


@flow
async def block(seconds: float = 8) -> None:
    note("began")
    time.sleep(seconds)  # noqa: ASYNC251


@flow
async def leave(how: str = "exit") -> None:
    note("began")
    if how == "exit":
        raise SystemExit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "child":

        async def child() -> None:
            raise SystemExit(4)

        asyncio.get_running_loop().create_task(child())
        await asyncio.sleep(0.2)
    if how == "error":
        raise ValueError("wrong")


@flow(log_prints=True)
async def prints(seconds: float = 0) -> None:
    print("before")
    note("began")
    await asyncio.sleep(seconds)
    print("after")


@flow
async def pauses() -> None:
    note("began")
    await pause_flow_run(timeout=60, poll_interval=1)
    note("resumed")
    await asyncio.sleep(7)


@task
def double(number: int) -> int:
    get_run_logger().info("doubling %s", number)
    return 2 * number


@flow
def with_tasks(number: int = 4) -> int:
    note("began")
    futures = [double.submit(n) for n in range(number)]
    return sum(future.result() for future in futures)


@flow
def where() -> int:
    note(f"pid={os.getpid()}")
    return os.getpid()


@flow
def uses_prefect_sync() -> None:
    """What Prefect's own functions give depends on whether they see a sync flow."""
    assert Variable.set("sample", "value", overwrite=True).value == "value"
    assert Variable.get("sample") == "value"
    assert isinstance(create_markdown_artifact("# sample", key="sample"), UUID)


def on_running(flow: Any, run: Any, state: Any) -> None:
    note("hook")


async def on_completion(flow: Any, run: Any, state: Any) -> None:
    note("hook")


@flow(on_running=[on_running], on_completion=[on_completion])
async def with_hooks() -> None:
    hooked = keep()
    assert any(runtime.flow_run.id in line for line in hooked)
