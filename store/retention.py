"""What is kept, and for how long: of runs by definition, of old records by age."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, exists, func, or_, select
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute, aliased

from store.fleet import Incident, Notice, ServerChange
from store.letters import DeadLetter
from store.models import Base, Definition, Tenant
from store.steps import ActionRun, ActionStep
from store.work import Job
from store.writing import writing

AT_ONCE = 5000
"""Records of a kind that one call forgets."""


def rows(tenant: str) -> Select[Any]:
    """Return what is kept of each of a tenant's definitions, in no order."""
    return select(
        Definition.id,
        Definition.name,
        Definition.deployment_id,
        Definition.keep_runs,
        Definition.run_count,
    ).where(Definition.tenant == tenant)


async def forget(engine: AsyncEngine, tenant: str, before: datetime) -> dict[str, int]:
    """Delete a tenant's records that are done with since before an instant, some of each kind.

    Dead letters that were replayed or discarded, notices, whether or not anybody has handed them
    out, resolved incidents, changes of servers but for the last of each that there is, jobs that
    have ended, and what runs of actions have recorded.

    Args:
        engine: The database.
        tenant: Whose.
        before: From when on records are kept.

    Returns:
        How many of each kind are gone; one of which `AT_ONCE` are gone may have more.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    gone = {}
    async with writing(engine) as session:
        if await session.get(Tenant, tenant) is None:
            raise NoResultFound
        for name, (model, id_, done_with) in _done_with(before).items():
            of = model.__table__.c.tenant == tenant
            # Locked ones are somebody else's to deal with, now.
            some = select(id_).where(of, done_with).limit(AT_ONCE).with_for_update(skip_locked=True)
            found = await session.scalars(delete(model).where(id_.in_(some)).returning(id_))
            gone[name] = len(found.all())
    return gone


def _done_with(
    before: datetime,
) -> dict[str, tuple[type[Base], InstrumentedAttribute[Any], ColumnElement[bool]]]:
    """Return the table of each kind, its key, and which of its rows nobody needs any more."""
    later = aliased(ServerChange)
    superseded = (
        exists().where(later.server_id == ServerChange.server_id).where(later.id > ServerChange.id)
    )
    # A run that was taken up again still needs what its first steps have put out.
    going_on = (
        exists()
        .where(ActionStep.tenant == ActionRun.tenant, ActionStep.run_id == ActionRun.id)
        .where(func.coalesce(ActionStep.finished_at, ActionStep.started_at) >= before)
    )
    return {
        "dead_letters": (
            DeadLetter,
            DeadLetter.id,
            and_(DeadLetter.status != "open", DeadLetter.decided_at < before),
        ),
        "notices": (Notice, Notice.id, func.coalesce(Notice.claimed_at, Notice.at) < before),
        "incidents": (Incident, Incident.id, Incident.resolved_at < before),
        "server_changes": (
            ServerChange,
            ServerChange.id,
            and_(ServerChange.at < before, or_(superseded, ServerChange.after.is_(None))),
        ),
        "jobs": (
            Job,
            Job.id,
            and_(Job.status.in_(("completed", "failed", "cancelled")), Job.finished_at < before),
        ),
        "action_runs": (ActionRun, ActionRun.id, and_(ActionRun.started_at < before, ~going_on)),
    }
