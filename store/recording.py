"""Writing a tenant's records, one batch of a kind at a time, and listing them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, Tuple, func, literal, select, tuple_
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from store.fleet import hold
from store.writing import reading, writing


@asynccontextmanager
async def recording(engine: AsyncEngine, tenant: str, kind: str) -> AsyncIterator[AsyncSession]:
    """Yield a session in which nobody else writes a tenant's records of a kind; it is committed.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with writing(engine) as session:
        if not await hold(session, tenant, kind):
            raise NoResultFound
        yield session


@dataclass(frozen=True)
class Part:
    """Which part of a list is asked for.

    Attributes:
        limit: The most rows.
        offset: Rows to leave out.
        after: The key of the row that it begins after.
        before: The key of the row that it ends before; the rows then come backwards.
    """

    limit: int
    offset: int = 0
    after: tuple[Any, ...] | None = None
    before: tuple[Any, ...] | None = None


async def listed(
    engine: AsyncEngine,
    rows: Select[Any],
    key: Sequence[InstrumentedAttribute[Any]],
    part: Part,
    *,
    newest: bool = False,
) -> list[Row[Any]]:
    """Return a part of a list.

    Args:
        engine: The database.
        rows: The whole list, in no order.
        key: The columns by which it is ordered, and which tell a row from all others.
        part: Which part.
        newest: From the greatest key on; else from the least.
    """
    least, greatest = (part.before, part.after) if newest else (part.after, part.before)
    if least is not None:
        rows = rows.where(tuple_(*key) > _position(key, least))
    if greatest is not None:
        rows = rows.where(tuple_(*key) < _position(key, greatest))
    # Backwards, and the newest first, are the same list read from its other end.
    descending = (part.before is not None) != newest
    ordered = [one.desc() if descending else one for one in key]
    async with reading(engine) as connection:
        found = await connection.execute(
            rows.order_by(*ordered).limit(part.limit).offset(part.offset)
        )
        return list(found)


def _position(key: Sequence[InstrumentedAttribute[Any]], values: Sequence[Any]) -> Tuple:
    return tuple_(*(literal(one, column.type) for one, column in zip(values, key, strict=True)))


async def counted(engine: AsyncEngine, rows: Select[Any]) -> int:
    """Return how many rows a list has."""
    async with reading(engine) as connection:
        found = await connection.execute(select(func.count()).select_from(rows.subquery()))
        return int(found.scalar_one())
