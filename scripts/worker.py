"""`rota worker`: an in-process worker, with the options that Prefect's own command has not."""

from __future__ import annotations

from collections.abc import Sequence

from scripts import screen
from workers import InlineWorker


async def work(
    pool: str,
    name: str | None,
    queues: Sequence[str],
    limit: int | None,
    grace: float | None,
    with_healthcheck: bool,
) -> int:
    """Work on `pool` until SIGTERM or Ctrl-C; return the exit code."""
    worker = InlineWorker(
        work_pool_name=pool,
        name=name,
        work_queues=list(queues) or None,
        limit=limit,
        grace_seconds=grace,
    )
    await worker.start(with_healthcheck=with_healthcheck, printer=screen.say)
    return 0
