"""What is due so long after a run waits while one is under way.

The end of a run is counted from in `store.outcomes`. Before it has ended nobody knows when that
will be, so nothing is due until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.counting import count_runs
from deployments.gateway import Gateway
from deployments.history import who
from store import status
from store.models import Definition
from store.outcomes import UNDER_WAY

NEAR = timedelta(minutes=1)
"""So long before something is due, and after, Rota looks for runs that are under way."""


async def wait_for_runs(engine: AsyncEngine, gateway: Gateway, at: datetime) -> None:
    """Let what is due about `at` (UTC, aware) wait for runs, or go on if they are gone."""
    found = await status.relative(engine, at - NEAR, at + NEAR)
    rows = {str(one.deployment_id): one for one in found}
    busy = {
        run["deployment_id"]
        for run in await gateway.under_way(list(rows))
        if not _is_own(rows[run["deployment_id"]], run)
    }
    waiting = {key for key, one in rows.items() if one.after_at == UNDER_WAY}
    await status.count_after(engine, [rows[key] for key in busy - waiting], UNDER_WAY)
    if gone := [rows[key] for key in waiting - busy]:
        # Most have just ended, and are to be counted. The end of the others is not to be had.
        await count_runs(engine, gateway)
        await status.count_after(engine, gone, None)


def _is_own(row: Definition, run: Mapping[str, Any]) -> bool:
    """Return whether a run is the very one that the definition is due for."""
    assert row.after_at is not None
    due = datetime.fromisoformat(run["expected_start_time"])
    return who(run) == "schedule" and due >= row.after_at
