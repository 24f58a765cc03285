"""Notices: written with what they tell of, and handed out once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select, true, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.fleet import Notice, hold
from store.writing import writing

KEPT = timedelta(days=1)
"""After that nobody is told any more."""

NAMED = 20
"""Things that one notice names; beyond, it says how many more there are."""


async def write(
    session: AsyncSession, tenant: str, kind: str, severity: str, subject: str, text: str
) -> None:
    """Write a notice, in the transaction of what it tells of.

    Args:
        session: That transaction's.
        tenant: Whose people are to be told.
        kind: What has happened, such as `incident_opened`.
        severity: `info`, `warning` or `critical`.
        subject: The same in a line.
        text: More of it, for people.
    """
    one = Notice(tenant=tenant, kind=kind, severity=severity, subject=subject, text=text)
    await write_all(session, [one])


async def write_all(session: AsyncSession, notices: Sequence[Notice]) -> None:
    """Write notices of one tenant, and forget those that are too old to be handed out."""
    if not notices:
        return
    session.add_all(notices)
    outdated = (
        select(Notice.id)
        .where(Notice.tenant == notices[0].tenant, Notice.at < func.now() - KEPT)
        .with_for_update(skip_locked=True)  # somebody else may be deleting the same
    )
    await session.execute(delete(Notice).where(Notice.id.in_(outdated)))


async def claim(
    engine: AsyncEngine, tenant: str, limit: int, *, addressed: bool = False
) -> list[Notice] | None:
    """Return what people are still to be told, the oldest first; nobody else gets it again.

    Args:
        engine: The database.
        tenant: Whose.
        limit: The most notices.
        addressed: Whether only those that say themselves where they go.

    Returns:
        The notices; None if there is no such tenant.
    """
    async with writing(engine) as session:
        if not await hold(session, tenant, "notices"):
            return None
        fresh = (
            select(Notice.id)
            .where(
                Notice.tenant == tenant,
                Notice.claimed_at.is_(None),
                Notice.at >= func.now() - KEPT,
                Notice.blocks.is_not(None) if addressed else true(),
            )
            .order_by(Notice.id)
            .limit(limit)
        )
        claimed = await session.scalars(
            update(Notice)
            .where(Notice.id.in_(fresh))
            .values(claimed_at=func.now())
            .returning(Notice)
        )
        return sorted(claimed, key=lambda one: one.id)


def named(names: Sequence[str]) -> str:
    """Return names as a notice has them, the first of them if there are many."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
