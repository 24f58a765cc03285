"""Definitions one at a time, and lists of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm.attributes import flag_modified

from store.loading import differing
from store.models import Definition, Tenant
from store.writing import reading, writing

STATES = ("problem", "suspended", "paused", "waiting", "active")

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
    """Return definitions of a tenant, each with its `state` and all columns."""
    async with reading(engine) as connection:
        found = await connection.execute(_listing(tenant, wanted, order))
        return [dict(row._mapping) for row in found]


async def listed_and_counted(
    engine: AsyncEngine, tenant: str, wanted: Wanted, order: Order
) -> tuple[list[dict[str, Any]], int]:
    """Return what `listed` does, and how many definitions there are on all pages."""
    count = _counting(tenant, wanted)
    # Together, for the round trip that this saves.
    both = _listing(tenant, wanted, order).add_columns(count.scalar_subquery().label("total"))
    async with reading(engine) as connection:
        rows = [dict(row._mapping) for row in await connection.execute(both)]
        total = rows[0]["total"] if rows else (await connection.execute(count)).scalar_one()
        return rows, total


def _listing(tenant: str, wanted: Wanted, order: Order) -> Select[Any]:
    columns = (Definition.created_at, Definition.id) if order.newest else (Definition.name,)
    # Backwards, and the newest first, are the same list read from its other end.
    descending = (order.before is not None) != order.newest
    ordered = [one.desc() if descending else one for one in columns]
    conditions = _conditions(tenant, wanted)
    at = order.before or order.after
    if at is not None:
        key, position = tuple_(*columns), tuple_(*at)
        conditions.append(key < position if descending else key > position)
    # The rows that a page leaves out are counted in the index, and never fetched.
    chosen = select(columns[-1]).where(*conditions).order_by(*ordered)
    if wanted.state is not None:
        chosen = chosen.join(Tenant, Tenant.slug == Definition.tenant)
    chosen = chosen.limit(order.limit).offset(order.offset)
    return (
        select(*Definition.__table__.columns, _state.label("state"))
        .join(Tenant, Tenant.slug == Definition.tenant)
        .where(Definition.tenant == tenant, columns[-1].in_(chosen))
        .order_by(*ordered)
    )


def _counting(tenant: str, wanted: Wanted) -> Select[tuple[int]]:
    rows = select(func.count()).select_from(Definition).where(*_conditions(tenant, wanted))
    if wanted.state is not None:
        rows = rows.join(Tenant, Tenant.slug == Definition.tenant)
    return rows


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


async def of_names(engine: AsyncEngine, tenant: str, names: Sequence[str]) -> list[Definition]:
    """Return the definitions of these names."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        named = select(Definition).where(
            Definition.tenant == tenant, Definition.name == func.any(list(names))
        )
        return list(await session.scalars(named))


def _conditions(tenant: str, wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [Definition.tenant == tenant]
    if wanted.q:
        found.append(Definition.name.icontains(wanted.q, autoescape=True))
    if wanted.duty is not None:
        found.append(Definition.duty == wanted.duty)
    if wanted.enabled is not None:
        found.append(Definition.enabled.is_(wanted.enabled))
    if wanted.state is not None:
        found.append(_state == wanted.state)
    return found
