"""Lists of what a source has: one that comes late must not undo what a later one has written."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from store.records import Listing


class LaterList(Exception):
    """A list that was asked for later has been written.

    Attributes:
        listed_at: When this one was asked for; UTC.
        newest: When that one was; UTC.
    """

    def __init__(self, listed_at: datetime, newest: datetime) -> None:
        super().__init__(f"a list of {newest.isoformat()} has been written")
        self.listed_at, self.newest = listed_at, newest


async def note(
    session: AsyncSession, tenant: str, kind: str, source: str, listed_at: datetime | None
) -> None:
    """Note when a list was asked for that is being written.

    Args:
        session: One in which nobody else writes the tenant's records of the kind.
        tenant: Whose.
        kind: `servers` or `projects`.
        source: Whose list it is.
        listed_at: When it was asked for; None where nobody knows, and nothing is noted.

    Raises:
        LaterList: A later one has been written.
    """
    if listed_at is None:
        return
    newest = await session.get(Listing, (tenant, kind, source))
    if newest is None:
        session.add(Listing(tenant=tenant, kind=kind, source=source, listed_at=listed_at))
    elif newest.listed_at > listed_at:
        raise LaterList(listed_at, newest.listed_at)
    else:
        newest.listed_at = listed_at
