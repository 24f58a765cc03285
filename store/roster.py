"""Reading the roster: definitions, and what of their tenants matters to them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, func, or_, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.errors import DatabaseError
from store.models import Definition, Mark, Tenant


@dataclass(frozen=True)
class Roster:
    """Definitions as they stood at one moment.

    Attributes:
        instance: The database's own id, which marks what it owns in Prefect.
        definitions: The rows.
        suspended: The slugs of suspended tenants.
    """

    instance: str
    definitions: list[Definition]
    suspended: frozenset[str]


async def read(
    engine: AsyncEngine,
    ids: Collection[UUID] | None = None,
    tenants: Collection[str] = (),
    names: Collection[tuple[str, str]] = (),
) -> Roster:
    """Return all definitions, or those of these ids, of these tenants, and of these names.

    Args:
        engine: The database.
        ids: The definitions' ids; None for all definitions.
        tenants: Slugs of tenants all of whose definitions are wanted.
        names: Tenant and name of definitions, whatever ids they have now.
    """
    named = tuple_(Definition.tenant, Definition.name).in_(names)
    asked = true() if ids is None else or_(_ids(ids), Definition.tenant.in_(tenants), named)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        # One moment for all three, so that a suspension and its definitions go together.
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        rows = await session.scalars(
            select(Definition).where(asked).order_by(Definition.tenant, Definition.name)
        )
        definitions = list(rows)
        suspended = await session.scalars(select(Tenant.slug).where(Tenant.suspended))
        instance = await session.scalar(select(Mark.value).where(Mark.name == "instance"))
        if not instance:
            raise DatabaseError(
                "The database has lost its own id, the row `instance` of `marks`; put it back as "
                "it stands in the tags of its deployments, after `rota:`."
            )
        return Roster(str(instance), definitions, frozenset(suspended))


async def find(engine: AsyncEngine, reference: str) -> Definition | None:
    """Return the definition that is addressed as `tenant/name`, if there is one."""
    tenant, _, name = reference.partition("/")
    async with AsyncSession(engine, expire_on_commit=False) as session:
        found: Definition | None = await session.scalar(
            select(Definition).where(Definition.tenant == tenant, Definition.name == name)
        )
        return found


async def references(engine: AsyncEngine) -> list[str]:
    """Return the addresses of all definitions."""
    async with AsyncSession(engine) as session:
        found = await session.scalars(
            select(func.concat(Definition.tenant, "/", Definition.name)).order_by(
                Definition.tenant, Definition.name
            )
        )
        return list(found)


def _ids(ids: Collection[UUID]) -> ColumnElement[bool]:
    # One array instead of thousands of parameters, of which PostgreSQL takes 32,767.
    return Definition.id == func.any(list(ids))
