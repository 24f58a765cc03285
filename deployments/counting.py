"""Counting what has run."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.gateway import Gateway
from deployments.letters import ended
from deployments.spec import owner_tag
from store import roster, status
from store.outcomes import Ended


async def count_runs(engine: AsyncEngine, gateway: Gateway) -> list[Ended]:
    """Read the runs that ended since the watermark, and count the new ones."""
    found = await roster.read(engine, [])
    since = await status.read_until(engine)
    runs = await gateway.ended_since(owner_tag(found.instance), since)
    return await status.count(engine, [one for run in runs if (one := ended(run))])
