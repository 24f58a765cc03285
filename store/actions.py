"""Actions and step templates: one at a time, lists of them, and who needs which."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.fleet import hold
from store.models import Definition, Tenant
from store.steps import Action, StepTemplate
from store.work import Setting
from store.writing import writing

DUTY = "run_action"
"""The duty whose parameter `action` names one."""

ADDRESSES_KEY = "allowed_addresses"
"""The setting that says what a tenant's actions may call beside the public Internet."""

Named = TypeVar("Named", Action, StepTemplate)


@dataclass
class Locked(Generic[Named]):
    """An action or a template that nobody else writes meanwhile, if there is one.

    Attributes:
        row: What there is of this name; None if there is nothing.
    """

    session: AsyncSession
    model: type[Named]
    tenant: str
    row: Named | None

    async def put(self, name: str, values: Mapping[str, Any]) -> Named:
        """Make it with these values, or give it those that differ; return it."""
        row = self.row
        if row is None:
            row = self.model(tenant=self.tenant, name=name, **values)
            self.session.add(row)
        else:
            for column, value in values.items():
                if getattr(row, column) != value:
                    setattr(row, column, value)
        await self.session.flush()
        await self.session.refresh(row)  # the database sets its dates and its revision
        return row

    async def delete(self) -> None:
        """Delete it."""
        assert self.row is not None
        await self.session.delete(self.row)
        await self.session.flush()

    async def templates(self) -> dict[str, dict[str, Any]]:
        """Return the tenant's step templates, by name."""
        return await templates_of(self.session, self.tenant)

    async def actions(self) -> list[Action]:
        """Return the tenant's actions, by name."""
        found = select(Action).where(Action.tenant == self.tenant).order_by(Action.name)
        return list(await self.session.scalars(found))

    async def definitions(self, action: str) -> list[str]:
        """Return the names of the definitions that run an action."""
        found = (
            select(Definition.name)
            .where(
                Definition.tenant == self.tenant,
                Definition.duty == DUTY,
                Definition.parameters["action"].astext == action,
            )
            .order_by(Definition.name)
        )
        return list(await self.session.scalars(found))


@asynccontextmanager
async def locked(
    engine: AsyncEngine, model: type[Named], tenant: str, name: str, who: str | None = None
) -> AsyncIterator[Locked[Named]]:
    """Yield an action or a template to be written; it is committed in the end.

    All of a tenant's are held, since an action depends on the templates that it names.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with writing(engine, who) as session:
        if not await hold(session, tenant, "actions"):
            raise NoResultFound
        row = await session.scalar(one_of(model, tenant, name).with_for_update())
        yield Locked(session, model, tenant, row)


async def get(
    engine: AsyncEngine, model: type[Named], tenant: str, name: str
) -> tuple[bool, Named | None]:
    """Return whether there is such a tenant, and what it has of that name."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        row = await session.scalar(one_of(model, tenant, name))
        return row is not None or await session.get(Tenant, tenant) is not None, row


def rows(model: type[Named], tenant: str, q: str | None = None) -> Select[Any]:
    """Return the list of a tenant's actions or templates, in no order.

    Args:
        model: Which of both.
        tenant: Whose.
        q: A part of the name.
    """
    found = select(*model.__table__.columns).where(model.tenant == tenant)
    return found.where(model.name.icontains(q, autoescape=True)) if q else found


async def allowed_addresses(engine: AsyncEngine, tenant: str) -> tuple[bool, list[str]]:
    """Return whether there is such a tenant, and which addresses its actions may also call."""
    async with AsyncSession(engine) as session:
        there = await session.get(Tenant, tenant) is not None
        return there, await addresses_of(session, tenant)


async def addresses_of(session: AsyncSession, tenant: str) -> list[str]:
    """Return which addresses a tenant's actions may also call."""
    row = await session.get(Setting, (tenant, ADDRESSES_KEY))
    return list(row.value) if row is not None else []


async def allow_addresses(
    engine: AsyncEngine, tenant: str, addresses: list[str], who: str | None = None
) -> None:
    """Say which addresses a tenant's actions may also call.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with writing(engine, who) as session:
        if not await hold(session, tenant, "actions"):
            raise NoResultFound
        row = await session.get(Setting, (tenant, ADDRESSES_KEY), with_for_update=True)
        if row is None:
            session.add(Setting(tenant=tenant, key=ADDRESSES_KEY, value=addresses))
        elif row.value != addresses:
            row.value, row.updated_at = addresses, func.now()


async def templates_of(session: AsyncSession, tenant: str) -> dict[str, dict[str, Any]]:
    """Return a tenant's step templates, by name."""
    found = select(StepTemplate).where(StepTemplate.tenant == tenant).order_by(StepTemplate.name)
    columns = ("kind", "input", "timeout_seconds", "retries", "retry_delay_seconds")
    return {
        row.name: {column: getattr(row, column) for column in columns}
        for row in await session.scalars(found)
    }


def one_of(model: type[Named], tenant: str, name: str) -> Select[tuple[Named]]:
    """Return how an action or a template is asked for."""
    return select(model).where(model.tenant == tenant, model.name == name)
