"""Writing whole rosters: one transaction, and only what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm.attributes import flag_modified

from store import jobs
from store.models import Definition, Tenant
from store.writing import writing

_JSON = ("parameters", "inputs", "job_variables")


@dataclass(frozen=True)
class TenantRows:
    """The definitions that a tenant is to have.

    Attributes:
        slug: The tenant.
        definitions: By name, all spec columns of each.
        title: The tenant's title; None leaves it as it is.
        make: Whether it is made if it is missing.
    """

    slug: str
    definitions: Mapping[str, Mapping[str, Any]]
    title: str | None = None
    make: bool = True


@dataclass
class Loaded:
    """What became of each definition, by its `tenant/name`."""

    created: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


async def load(
    engine: AsyncEngine,
    tenants: Sequence[TenantRows],
    *,
    prune: bool,
    dry_run: bool,
    who: str | None = None,
) -> Loaded:
    """Write rosters, all of them or none.

    Args:
        engine: The database.
        tenants: What is to be there.
        prune: Also delete definitions of these tenants that are not named.
        dry_run: Take everything back in the end, after the database has judged it.
        who: In whose name; None for that of the database's user.

    Raises:
        sqlalchemy.exc.IntegrityError: A value breaks a constraint of the tables.
        sqlalchemy.exc.NoResultFound: A tenant is missing, and is not to be made.
    """
    loaded = Loaded()
    async with writing(engine, who) as session:
        for one in sorted(tenants, key=lambda tenant: tenant.slug):
            await _load_tenant(session, one, prune, who, loaded)
        if dry_run:
            await session.rollback()
    return loaded


def differing(row: Definition, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `values` that `row` does not have."""
    return {
        column: value
        for column, value in values.items()
        if _comparable(column, getattr(row, column)) != _comparable(column, value)
    }


async def _load_tenant(
    session: AsyncSession, tenant: TenantRows, prune: bool, who: str | None, loaded: Loaded
) -> None:
    if tenant.make:
        await session.execute(insert(Tenant).values(slug=tenant.slug).on_conflict_do_nothing())
    row = await session.get_one(Tenant, tenant.slug, with_for_update=True)
    if tenant.title is not None:
        row.title = tenant.title
    found = await session.scalars(
        # In the order in which `watch` writes them too, or the two could wait for one another.
        select(Definition)
        .where(Definition.tenant == tenant.slug)
        .order_by(Definition.id)
        .with_for_update()
    )
    rows = {one.name: one for one in found}
    if prune:
        await _prune(session, tenant, rows, loaded)
    for name, values in tenant.definitions.items():
        there = rows.get(name)
        if there is None:
            session.add(Definition(tenant=tenant.slug, name=name, created_by=who, **values))
            loaded.created.append(f"{tenant.slug}/{name}")
        else:
            _put(there, values, loaded)
    await session.flush()


async def _prune(
    session: AsyncSession, tenant: TenantRows, rows: Mapping[str, Definition], loaded: Loaded
) -> None:
    surplus = [one for name, one in rows.items() if name not in tenant.definitions]
    if any(one.name == jobs.NAME for one in surplus) and await jobs.wait(session, tenant.slug):
        surplus = [one for one in surplus if one.name != jobs.NAME]
    ids = [one.id for one in surplus]
    await session.execute(delete(Definition).where(Definition.id == func.any(ids)))
    loaded.deleted += sorted(one.reference for one in surplus)


def _put(row: Definition, values: Mapping[str, Any], loaded: Loaded) -> None:
    changed = differing(row, values)
    for column, value in changed.items():
        flag_modified(row, column)  # or true in place of 1 would not count as a change
        setattr(row, column, value)
    (loaded.updated if changed else loaded.unchanged).append(row.reference)


def _comparable(column: str, value: Any) -> Any:
    # To Python, true is 1 and equals 1.0.
    if column not in _JSON:
        return value
    text = json.dumps(value, sort_keys=True)
    return json.loads(text, parse_float=_as_stored, parse_int=str, parse_constant=str)


def _as_stored(number: str) -> str:
    # PostgreSQL writes no exponents: it gives 1e+16 back as a whole number.
    return f"{Decimal(number):f}"
