"""Tenants: who there are, and suspending them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy import delete as remove
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.models import Definition, Tenant
from store.writing import writing


@dataclass(frozen=True)
class Counted:
    """A tenant, and how many definitions and problems it has."""

    tenant: Tenant
    definitions: int
    problems: int


async def everyone(engine: AsyncEngine) -> list[Counted]:
    """Return all tenants by slug."""
    return await listed(engine)


async def listed(
    engine: AsyncEngine,
    limit: int | None = None,
    offset: int = 0,
    *,
    after: str | None = None,
    before: str | None = None,
    q: str | None = None,
    only: str | None = None,
) -> list[Counted]:
    """Return tenants by slug.

    Args:
        engine: The database.
        limit: The most tenants; None for all.
        offset: Tenants to leave out.
        after: The slug that they come after.
        before: The slug that they come before; they are then the last of those, backwards.
        q: A part of the slug.
        only: The one slug that may be among them.
    """
    rows = (
        select(Tenant, func.count(Definition.id), func.count(Definition.problem))
        .outerjoin(Definition, Definition.tenant == Tenant.slug)
        .where(*_conditions(q, only))
        .group_by(Tenant.slug)
        .order_by(Tenant.slug if before is None else Tenant.slug.desc())
        .limit(limit)
        .offset(offset)
    )
    if after is not None:
        rows = rows.where(Tenant.slug > after)
    if before is not None:
        rows = rows.where(Tenant.slug < before)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        return [Counted(*row) for row in await session.execute(rows)]


async def counted(
    engine: AsyncEngine,
    *,
    q: str | None = None,
    only: str | None = None,
    suspended: bool = False,
) -> int:
    """Return how many tenants there are, or how many suspended ones."""
    async with AsyncSession(engine) as session:
        rows = select(func.count()).select_from(Tenant).where(*_conditions(q, only))
        if suspended:
            rows = rows.where(Tenant.suspended)
        return await session.scalar(rows) or 0


async def find(engine: AsyncEngine, slug: str) -> Counted | None:
    """Return one tenant, if there is such a one."""
    found = await listed(engine, only=slug)
    return found[0] if found else None


async def create(engine: AsyncEngine, slug: str, title: str | None, who: str | None = None) -> bool:
    """Create a tenant; return whether there was none of that slug."""
    async with writing(engine, who) as session:
        made = insert(Tenant).values(slug=slug, title=title).on_conflict_do_nothing()
        return await session.scalar(made.returning(Tenant.slug)) is not None


async def rename(engine: AsyncEngine, slug: str, title: str | None, who: str | None = None) -> bool:
    """Give a tenant a title; return whether there is such a one."""
    return await _write(engine, slug, who, title=title)


async def delete(engine: AsyncEngine, slug: str, who: str | None = None) -> bool:
    """Delete a tenant that has no definitions; return whether that is done."""
    async with writing(engine, who) as session:
        # First, and by itself: who inserts a definition meanwhile is waited for, and then seen.
        await session.get(Tenant, slug, with_for_update=True)
        empty = ~select(Definition.id).where(Definition.tenant == slug).exists()
        gone = remove(Tenant).where(Tenant.slug == slug, empty).returning(Tenant.slug)
        return await session.scalar(gone) is not None


def _conditions(q: str | None, only: str | None) -> list[ColumnElement[bool]]:
    found = []
    if q:
        found.append(Tenant.slug.icontains(q, autoescape=True))
    if only is not None:
        found.append(Tenant.slug == only)
    return found


async def queues_of(engine: AsyncEngine, slug: str) -> tuple[bool, set[str]]:
    """Return whether a tenant is suspended, and the work pools that its definitions name."""
    async with AsyncSession(engine) as session:
        suspended = await session.scalar(select(Tenant.suspended).where(Tenant.slug == slug))
        pools = await session.scalars(
            select(Definition.work_pool)
            .where(Definition.tenant == slug, Definition.work_pool.is_not(None))
            .distinct()
        )
        return bool(suspended), {pool for pool in pools if pool}


async def suspend(
    engine: AsyncEngine, slug: str, reason: str | None, who: str | None = None
) -> bool:
    """Suspend a tenant as of now by the database's clock; return whether there is such a one."""
    return await _write(
        engine, slug, who, suspended=True, suspended_reason=reason, suspended_at=func.now()
    )


async def unsuspend(engine: AsyncEngine, slug: str, who: str | None = None) -> bool:
    """Let a tenant's definitions run again; return whether there is such a one."""
    return await _write(
        engine, slug, who, suspended=False, suspended_reason=None, suspended_at=None
    )


async def _write(engine: AsyncEngine, slug: str, who: str | None, **values: object) -> bool:
    async with writing(engine, who) as session:
        written = update(Tenant).where(Tenant.slug == slug).values(values).returning(Tenant.slug)
        return await session.scalar(written) is not None
