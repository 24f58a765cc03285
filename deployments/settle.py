"""Removing what Prefect's scheduler puts back of a deployment as it was before a write.

The scheduler reads deployments in one transaction and inserts their runs in another. A write in
between drops the runs that are there, and then those of the old version appear. Runs carry the
version that they were made from, so a little later they can be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from deployments.gateway import Gateway
from deployments.spec import Deployed


async def remove_stale(
    gateway: Gateway, written: Sequence[Deployed], since: Mapping[str, datetime]
) -> set[str]:
    """Delete the runs that a write had dropped and the scheduler put back.

    Args:
        gateway: Prefect.
        written: The deployments that were written, as they are now.
        since: When each was written, by its id. What fell due before stays.

    Returns:
        The ids of the deployments that had such runs.
    """
    by_id = {deployed.id: deployed for deployed in written}
    stale = [
        run
        for run in await gateway.scheduled(list(by_id), min(since.values()))
        if _is_stale(run, by_id[run["deployment_id"]], since[run["deployment_id"]])
    ]
    await gateway.delete_scheduled([run["id"] for run in stale])
    return {str(run["deployment_id"]) for run in stale}


def _is_stale(run: Mapping[str, Any], deployed: Deployed, since: datetime) -> bool:
    made_by_schedule = run["auto_scheduled"] and run["run_count"] == 0
    waits_for_a_slot = run["state_name"] == "AwaitingConcurrencySlot"
    if not made_by_schedule or waits_for_a_slot:
        return False
    if datetime.fromisoformat(run["expected_start_time"]) <= since:
        return False
    return deployed.spec.paused or run["deployment_version"] != deployed.spec.fingerprint
