"""What runs of actions have done, step by step, so that one can go on from where it failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.actions import addresses_of, one_of, templates_of
from store.fleet import hold
from store.steps import Action, ActionRun, ActionStep
from store.writing import writing

MOST_BYTES = 8 * 1024 * 1024
"""What the inputs and outputs of one run may have together, as text."""


class Elsewhere(Exception):
    """The run is one of another action.

    Attributes:
        action: Its name.
    """

    def __init__(self, action: str) -> None:
        super().__init__(action)
        self.action = action


class Done(Exception):
    """The step has been completed, and stays so."""


class TooLarge(Exception):
    """The run's inputs and outputs have more than `MOST_BYTES` together."""


@dataclass(frozen=True)
class Begun:
    """A run that is taken up, for the first time or again.

    Attributes:
        action: Its action, as it is now.
        templates: The tenant's step templates.
        done: The steps that it has completed.
        allowed_addresses: Which addresses it may also call.
    """

    action: Action
    templates: Mapping[str, Mapping[str, Any]]
    done: Sequence[ActionStep]
    allowed_addresses: Sequence[str]


async def begin(engine: AsyncEngine, tenant: str, action: str, run_id: UUID) -> Begun | None:
    """Take a run up; return None if there is no such action.

    Raises:
        Elsewhere: The run is one of another action.
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with writing(engine) as session:
        await _hold(session, tenant, run_id)
        found = await session.scalar(one_of(Action, tenant, action))
        if found is None:
            return None
        run = await session.get(ActionRun, (tenant, run_id))
        if run is None:
            run = ActionRun(tenant=tenant, id=run_id, action=action, revision=found.revision)
            session.add(run)
        if run.action != action:
            raise Elsewhere(run.action)
        run.revision = found.revision
        done = steps_of(tenant, run_id).where(ActionStep.status == "completed")
        return Begun(
            found,
            await templates_of(session, tenant),
            list(await session.scalars(done)),
            await addresses_of(session, tenant),
        )


async def record(
    engine: AsyncEngine, tenant: str, action: str, run_id: UUID, step: str, said: Mapping[str, Any]
) -> ActionStep | None:
    """Write what a step does or has done; return it, or None if there is no such run.

    Args:
        engine: The database.
        tenant: Whose.
        action: Of which action.
        run_id: The run.
        step: The step's name.
        said: `kind`, `status`, `input`, `output`, `error`, `next`.

    Raises:
        Done: It is completed, and `said` says something else.
        TooLarge: The run has no room for it.
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with writing(engine) as session:
        await _hold(session, tenant, run_id)
        run = await session.get(ActionRun, (tenant, run_id))
        if run is None or run.action != action:
            return None
        row = await session.get(ActionStep, (tenant, run_id, step))
        if row is not None and row.status == "completed":
            if said["status"] != "completed":
                raise Done
            return row  # said twice, since the first answer was lost
        if row is None:
            count = select(func.count()).select_from(steps_of(tenant, run_id).subquery())
            place = int(await session.scalar(count) or 0) + 1
            row = ActionStep(tenant=tenant, run_id=run_id, step=step, position=place, **said)
            session.add(row)
        else:
            if said["status"] == "running":
                row.started_at = func.clock_timestamp()
            for column, value in said.items():
                setattr(row, column, value)
        row.finished_at = None if said["status"] == "running" else func.clock_timestamp()
        await session.flush()
        await session.refresh(row)
        if int(await session.scalar(_bytes(tenant, run_id)) or 0) > MOST_BYTES:
            raise TooLarge
        return row


async def find(
    engine: AsyncEngine, tenant: str, action: str, run_id: UUID
) -> tuple[ActionRun, list[ActionStep]] | None:
    """Return a run and its steps, in the order in which they began."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        run = await session.get(ActionRun, (tenant, run_id))
        if run is None or run.action != action:
            return None
        rows = steps_of(tenant, run_id).order_by(ActionStep.position)
        return run, list(await session.scalars(rows))


def rows(tenant: str, action: str) -> Select[Any]:
    """Return the list of an action's runs, in no order."""
    found = select(*ActionRun.__table__.columns)
    return found.where(ActionRun.tenant == tenant, ActionRun.action == action)


def steps_of(tenant: str, run_id: UUID) -> Select[tuple[ActionStep]]:
    """Return the steps of a run, in no order."""
    return select(ActionStep).where(ActionStep.tenant == tenant, ActionStep.run_id == run_id)


def _bytes(tenant: str, run_id: UUID) -> Select[Any]:
    size = func.octet_length(func.concat(ActionStep.input, ActionStep.output))
    where = (ActionStep.tenant == tenant, ActionStep.run_id == run_id)
    return select(func.sum(size)).where(*where)


async def _hold(session: AsyncSession, tenant: str, run_id: UUID) -> None:
    if not await hold(session, tenant, f"action_run {run_id}"):
        raise NoResultFound
