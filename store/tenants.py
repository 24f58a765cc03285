"""Tenants: who there are, and suspending them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.models import Definition, Tenant


@dataclass(frozen=True)
class Counted:
    """A tenant, and how many definitions and problems it has."""

    tenant: Tenant
    definitions: int
    problems: int


async def everyone(engine: AsyncEngine) -> list[Counted]:
    """Return all tenants by slug."""
    counted = (
        select(Tenant, func.count(Definition.id), func.count(Definition.problem))
        .outerjoin(Definition, Definition.tenant == Tenant.slug)
        .group_by(Tenant.slug)
        .order_by(Tenant.slug)
    )
    async with AsyncSession(engine, expire_on_commit=False) as session:
        return [Counted(*row) for row in await session.execute(counted)]


async def suspend(engine: AsyncEngine, slug: str, reason: str | None) -> bool:
    """Suspend a tenant as of now by the database's clock; return whether there is such a one."""
    return await _write(
        engine, slug, suspended=True, suspended_reason=reason, suspended_at=func.now()
    )


async def unsuspend(engine: AsyncEngine, slug: str) -> bool:
    """Let a tenant's definitions run again; return whether there is such a one."""
    return await _write(engine, slug, suspended=False, suspended_reason=None, suspended_at=None)


async def _write(engine: AsyncEngine, slug: str, **values: object) -> bool:
    async with AsyncSession(engine) as session, session.begin():
        written = update(Tenant).where(Tenant.slug == slug).values(values).returning(Tenant.slug)
        return await session.scalar(written) is not None
