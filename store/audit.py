"""Reading what was written, by whom and when. Triggers write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from store.models import Audit


@dataclass(frozen=True)
class Wanted:
    """Which rows of the audit are asked for; None asks for any.

    Attributes:
        tenant: Of this tenant.
        kind: `definition`, `tenant`, `token`, `job` or `setting`.
        name: Of the definition or token of this name.
        who: By this caller.
        since: Written then, or later.
        until: Written then, or earlier.
    """

    tenant: str | None = None
    kind: str | None = None
    name: str | None = None
    who: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def listed(
    engine: AsyncEngine,
    wanted: Wanted,
    limit: int,
    offset: int = 0,
    *,
    after: int | None = None,
    before: int | None = None,
) -> list[Mapping[str, Any]]:
    """Return rows of the audit, the latest first.

    Args:
        engine: The database.
        wanted: Which.
        limit: The most rows.
        offset: Rows to leave out.
        after: The id of the row that they come after.
        before: The id of the row that they come before; they then come backwards.
    """
    rows = select(*Audit.__table__.columns).where(*_conditions(wanted))
    if after is not None:
        rows = rows.where(Audit.id < after)
    if before is not None:
        rows = rows.where(Audit.id > before)
    rows = rows.order_by(Audit.id.desc() if before is None else Audit.id)
    async with engine.connect() as connection:
        found = await connection.execute(rows.limit(limit).offset(offset))
        return [dict(row._mapping) for row in found]


async def counted(engine: AsyncEngine, wanted: Wanted) -> int:
    """Return how many rows there are."""
    rows = select(func.count()).select_from(Audit).where(*_conditions(wanted))
    async with engine.connect() as connection:
        return int((await connection.execute(rows)).scalar_one())


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    columns = {
        Audit.tenant: wanted.tenant,
        Audit.kind: wanted.kind,
        Audit.name: wanted.name,
        Audit.who: wanted.who,
    }
    found = [column == value for column, value in columns.items() if value is not None]
    if wanted.since is not None:
        found.append(Audit.at >= wanted.since)
    if wanted.until is not None:
        found.append(Audit.at <= wanted.until)
    return found
