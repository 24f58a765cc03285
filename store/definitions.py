"""Definitions one at a time, and lists of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm.attributes import flag_modified

from store.loading import differing
from store.models import Definition, Tenant
from store.writing import reading, writing

STATES = ("problem", "suspended", "paused", "waiting", "active")

_LITERAL, _ESCAPED = re.compile(r"[\\%_]"), r"\\\g<0>"
"""What a pattern of LIKE takes for more than itself, and how it stands for itself."""

_paused = or_(Definition.enabled.is_(False), Definition.paused_until > func.now())
_state: ColumnElement[str] = case(
    (Definition.problem.is_not(None), "problem"),
    (Tenant.suspended, "suspended"),
    (_paused, "paused"),
    (Definition.deployment_id.is_(None), "waiting"),
    else_="active",
)


@dataclass(frozen=True)
class Wanted:
    """Which definitions of a tenant are asked for; None asks for any.

    Attributes:
        q: A part of the name, in whatever case.
        duty: The duty.
        enabled: The column `enabled`.
        state: One of `STATES`.
    """

    q: str | None = None
    duty: str | None = None
    enabled: bool | None = None
    state: str | None = None

    @property
    def shape(self) -> frozenset[str]:
        """What is asked for, without the values."""
        given = {"q": self.q or None, "duty": self.duty, "enabled": self.enabled}
        given["state"] = self.state
        return frozenset(name for name, value in given.items() if value is not None)


@dataclass(frozen=True)
class Order:
    """How a list is ordered, and where in it a page stands.

    Attributes:
        newest: The latest created first; else by name.
        limit: The most rows.
        offset: Rows to leave out.
        after: The key of the row that the page begins after.
        before: The key of the row that it ends before; the rows then come backwards.
    """

    newest: bool
    limit: int
    offset: int = 0
    after: tuple[Any, ...] | None = None
    before: tuple[Any, ...] | None = None


async def listed(
    engine: AsyncEngine, tenant: str, wanted: Wanted, order: Order
) -> list[dict[str, Any]]:
    """Return definitions of a tenant: all columns, their `state` and their `reference`."""
    async with reading(engine) as connection:
        return await _rows(connection, tenant, wanted, order, counted=False)


async def listed_and_counted(
    engine: AsyncEngine, tenant: str, wanted: Wanted, order: Order
) -> tuple[list[dict[str, Any]], int]:
    """Return what `listed` does, and how many definitions there are on all pages."""
    async with reading(engine) as connection:
        # Together, for the round trip that this saves.
        rows = await _rows(connection, tenant, wanted, order, counted=True)
        if rows:
            return rows, int(rows[0]["total"])
        count = _counting(wanted.shape)
        found = await connection.execute(count, _values(tenant, wanted))
        return rows, found.scalar_one()


async def _rows(
    connection: AsyncConnection, tenant: str, wanted: Wanted, order: Order, *, counted: bool
) -> list[dict[str, Any]]:
    position = order.before or order.after
    values = _values(tenant, wanted) | {"limit": order.limit, "offset": order.offset}
    values |= {f"at_{number}": value for number, value in enumerate(position or ())}
    # Backwards, and the newest first, are the same list read from its other end.
    descending = (order.before is not None) != order.newest
    statement = _listing(wanted.shape, order.newest, descending, position is not None, counted)
    found = await connection.execute(statement, values)
    return [dict(row._mapping) for row in found]


def _values(tenant: str, wanted: Wanted) -> dict[str, Any]:
    sought = wanted.q and f"%{_LITERAL.sub(_ESCAPED, wanted.q)}%"
    given = {"q": sought, "duty": wanted.duty, "enabled": wanted.enabled, "state": wanted.state}
    return {"tenant": tenant} | {name: given[name] for name in wanted.shape}


# Composing a statement takes longer than its round trip; there are few that differ in more than
# their values.
@lru_cache(maxsize=256)
def _listing(
    shape: frozenset[str], newest: bool, descending: bool, keyed: bool, counted: bool
) -> Select[Any]:
    columns = (Definition.created_at, Definition.id) if newest else (Definition.name,)
    ordered = [one.desc() if descending else one for one in columns]
    conditions = _conditions(shape)
    if keyed:
        key = tuple_(*columns)
        position = tuple_(
            *(bindparam(f"at_{number}", type_=one.type) for number, one in enumerate(columns))
        )
        conditions.append(key < position if descending else key > position)
    # The rows that a page leaves out are counted in the index, and never fetched.
    chosen = select(columns[-1]).where(*conditions).order_by(*ordered)
    if "state" in shape:
        chosen = chosen.join(Tenant, Tenant.slug == Definition.tenant)
    chosen = chosen.limit(bindparam("limit", type_=Integer))
    chosen = chosen.offset(bindparam("offset", type_=Integer))
    reference = func.concat(Definition.tenant, "/", Definition.name).label("reference")
    rows = (
        select(*Definition.__table__.columns, _state.label("state"), reference)
        .join(Tenant, Tenant.slug == Definition.tenant)
        .where(Definition.tenant == bindparam("tenant"), columns[-1].in_(chosen))
        .order_by(*ordered)
    )
    if counted:
        rows = rows.add_columns(_counting(shape).scalar_subquery().label("total"))
    return rows


@lru_cache(maxsize=16)
def _counting(shape: frozenset[str]) -> Select[tuple[int]]:
    rows = select(func.count()).select_from(Definition).where(*_conditions(shape))
    if "state" in shape:
        rows = rows.join(Tenant, Tenant.slug == Definition.tenant)
    return rows


def _conditions(shape: frozenset[str]) -> list[ColumnElement[bool]]:
    conditions = {
        "q": Definition.name.ilike(bindparam("q"), escape="\\"),
        "duty": Definition.duty == bindparam("duty"),
        "enabled": Definition.enabled == bindparam("enabled"),
        "state": _state == bindparam("state"),
    }
    found = [Definition.tenant == bindparam("tenant")]
    return found + [conditions[name] for name in sorted(shape)]


async def states(engine: AsyncEngine, tenant: str | None = None) -> dict[str, int]:
    """Return how many definitions are in each state, of one tenant or of all."""
    rows = (
        select(_state.label("state"), func.count())
        .select_from(Definition)
        .join(Tenant, Tenant.slug == Definition.tenant)
        .group_by(_state)
    )
    if tenant is not None:
        rows = rows.where(Definition.tenant == tenant)
    async with engine.connect() as connection:
        found = dict(map(tuple, await connection.execute(rows)))
    return {state: found.get(state, 0) for state in STATES}


async def get(
    engine: AsyncEngine, tenant: str, name: str
) -> tuple[Tenant, Definition | None] | None:
    """Return a tenant and a definition of it; None without the tenant."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        found = await session.execute(
            select(Tenant, Definition)
            .outerjoin(Definition, and_(Definition.tenant == Tenant.slug, Definition.name == name))
            .where(Tenant.slug == tenant)
        )
        row = found.one_or_none()
        return None if row is None else (row[0], row[1])


@dataclass
class Locked:
    """A definition that nobody else writes meanwhile, if there is one.

    Attributes:
        tenant: Its tenant; None if there is no such one.
        row: The definition; None if there is no such one.
    """

    session: AsyncSession
    tenant: Tenant | None
    row: Definition | None

    async def create(self, name: str, values: Mapping[str, Any], who: str | None) -> Definition:
        """Insert the definition, and return it."""
        assert self.tenant is not None
        row = Definition(tenant=self.tenant.slug, name=name, created_by=who, **values)
        self.session.add(row)
        return await self._written(row)

    async def update(self, values: Mapping[str, Any]) -> Definition:
        """Give the definition these values, where it has others, and return it."""
        assert self.row is not None
        for column, value in differing(self.row, values).items():
            flag_modified(self.row, column)  # or true in place of 1 would not count as a change
            setattr(self.row, column, value)
        return await self._written(self.row)

    def differs(self, values: Mapping[str, Any]) -> bool:
        """Whether the definition has other values than these."""
        assert self.row is not None
        return bool(differing(self.row, values))

    async def delete(self) -> None:
        """Delete the definition."""
        assert self.row is not None
        await self.session.delete(self.row)
        await self.session.flush()

    async def _written(self, row: Definition) -> Definition:
        await self.session.flush()
        await self.session.refresh(row)  # the database sets its dates and its revision
        return row


@asynccontextmanager
async def locked(
    engine: AsyncEngine, tenant: str, name: str, who: str | None = None
) -> AsyncIterator[Locked]:
    """Yield a definition to be written; it is committed in the end."""
    async with writing(engine, who) as session:
        # For a definition that is not there yet has no row to lock.
        key = func.hashtextextended(f"{tenant}/{name}", 0)
        await session.execute(select(func.pg_advisory_xact_lock(key)))
        # Shared: a tenant that is being deleted or suspended is waited for, others write beside.
        owner = await session.get(Tenant, tenant, with_for_update={"read": True, "key_share": True})
        row = await session.scalar(
            select(Definition)
            .where(Definition.tenant == tenant, Definition.name == name)
            .with_for_update()
        )
        yield Locked(session, owner, row)
