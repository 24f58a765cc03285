"""What is due so long after a run waits while one is under way.

The end of a run is counted from in `store.outcomes`. Before it has ended nobody knows when that
will be, so nothing is due until then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.gateway import PAGE, Gateway
from deployments.history import who
from store import status
from store.models import Definition
from store.outcomes import UNDER_WAY

AHEAD = timedelta(minutes=1)
"""How long before something is due Rota begins to look for runs that are under way."""

STATES = ("Pending", "Running", "Retrying", "AwaitingRetry", "Cancelling", "Paused", "Suspended")


async def wait_for_runs(engine: AsyncEngine, gateway: Gateway, at: datetime) -> None:
    """Let what is due soon after `at` (UTC, aware) wait for runs, or go on if they are gone."""
    found = await status.relative(engine, at, at + AHEAD)
    rows = {str(one.deployment_id): one for one in found}
    busy = await _busy(gateway, rows)
    changed = []
    for key, one in rows.items():
        waits = one.after_at == UNDER_WAY
        if waits and key not in busy:
            changed.append({"id": one.id, "after_at": at})  # its end is not to be had any more
        elif not waits and key in busy:
            changed.append({"id": one.id, "after_at": UNDER_WAY})
    await status.record(engine, changed)


async def _busy(gateway: Gateway, rows: Mapping[str, Definition]) -> Collection[str]:
    found = set()
    ids = list(rows)
    for start in range(0, len(ids), PAGE // 2):
        some = ids[start : start + PAGE // 2]
        chosen = {"deployment_id": {"any_": some}, "state": {"name": {"any_": list(STATES)}}}
        for run in await gateway.runs_where(chosen, "EXPECTED_START_TIME_DESC", PAGE):
            if not _is_own(rows[run["deployment_id"]], run):
                found.add(run["deployment_id"])
    return found


def _is_own(row: Definition, run: Mapping[str, Any]) -> bool:
    """Return whether a run is the very one that the definition is due for."""
    assert row.after_at is not None
    due = datetime.fromisoformat(run["expected_start_time"])
    return who(run) == "schedule" and due >= row.after_at
