"""Suspending and resuming a tenant as of an instant, in whichever order one hears of it."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from sqlalchemy.ext.asyncio import AsyncEngine

from store.models import Mark, Tenant
from store.writing import writing


class Outcome(Enum):
    """What became of it."""

    DONE = "done"
    OUTDATED = "outdated"
    """Something as new or newer was known already; nothing of the tenant has changed."""
    UNKNOWN = "unknown"
    """There is no such tenant."""


async def block(
    engine: AsyncEngine, slug: str, at: datetime, reason: str | None, who: str
) -> Outcome:
    """Suspend a tenant that was blocked at an instant, unless it was unblocked later.

    A tenant that is suspended since a later instant, by whomever, stays as it is.
    """
    return await _follow(engine, slug, at, who, True, reason)


async def unblock(engine: AsyncEngine, slug: str, at: datetime, who: str) -> Outcome:
    """Let a tenant run again that was unblocked at an instant, unless it was suspended later.

    By whomever it was suspended: an operator's suspension has an instant too. One without, such
    as plain SQL may leave, counts as earlier.
    """
    return await _follow(engine, slug, at, who, False, None)


async def _follow(
    engine: AsyncEngine, slug: str, at: datetime, who: str, blocked: bool, reason: str | None
) -> Outcome:
    async with writing(engine, who) as session:
        # One at a time for each tenant. Definitions may be inserted meanwhile.
        tenant = await session.get(Tenant, slug, with_for_update={"key_share": True})
        if tenant is None:
            return Outcome.UNKNOWN
        # `suspended_at` is null again once a tenant is resumed, so the latest instant is kept
        # beside it: else a `blocked` that comes late would suspend for good.
        name = f"blocked:{slug}"
        mark = await session.get(Mark, name)
        if mark is None:
            session.add(Mark(name=name, at=at, value=blocked))
        elif mark.at > at or (mark.at == at and mark.value == blocked):
            return Outcome.OUTDATED
        else:
            mark.at, mark.value = at, blocked
        since = tenant.suspended_at if tenant.suspended else None
        if since is not None and since > at:
            return Outcome.OUTDATED
        tenant.suspended = blocked
        tenant.suspended_at = at if blocked else None
        tenant.suspended_reason = reason
        return Outcome.DONE
