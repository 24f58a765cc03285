"""Dead letters: runs that have failed for good, until somebody replays or discards them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    ForeignKey,
    Integer,
    Select,
    case,
    exists,
    func,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from store.models import Base, Definition
from store.writing import reading, writing

LONGEST_ERROR = 4096
"""Characters of an error that are kept."""


class DeadLetter(Base):
    """A run that has failed for good, with what it takes to replay it without that run.

    `replayed` ones have been handed to a new run, and are open again if that fails as well.
    `attempts` counts those of all of its runs. The definition may be gone.
    """

    __tablename__ = "dead_letters"

    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"), init=False
    )
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.slug", ondelete="CASCADE"))
    definition_id: Mapped[UUID]
    name: Mapped[str]
    run_id: Mapped[UUID] = mapped_column(unique=True)
    occurrence: Mapped[datetime]
    trigger: Mapped[str]
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    parameters: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'::jsonb"), default_factory=dict
    )
    error: Mapped[str] = mapped_column(server_default=text("''"), default="")
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("1"), default=1)
    status: Mapped[str] = mapped_column(server_default=text("'open'"), default="open")
    note: Mapped[str | None] = mapped_column(default=None)
    replays: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)
    replay_run_id: Mapped[UUID | None] = mapped_column(default=None)
    replay_due: Mapped[datetime | None] = mapped_column(default=None)
    decided_at: Mapped[datetime | None] = mapped_column(default=None)
    decided_by: Mapped[str | None] = mapped_column(default=None)


@dataclass(frozen=True)
class Failure:
    """What a dead letter keeps of a run that has failed.

    Attributes:
        occurrence: Its nominal time, as the duty saw it.
        trigger: What made it due: `schedule` or `manual`.
        parameters: What the duty was handed.
        error: Why it failed.
        attempts: How often it was tried.
        letter_id: The letter that it was a replay of.
    """

    occurrence: datetime
    trigger: str
    parameters: dict[str, Any]
    error: str
    attempts: int
    letter_id: UUID | None = None


@dataclass(frozen=True)
class Wanted:
    """Which letters are asked for; None asks for any.

    Attributes:
        status: `open`, `replayed` or `discarded`.
        name: Of the definition of this name.
        since: Last failed then, or later.
        until: Last failed then, or earlier.
    """

    status: str | None = None
    name: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Decided(Exception):
    """A letter is no longer open; the message says what it is."""


# -- written with the count of ended runs


async def write(
    session: AsyncSession, run_id: str, deployment_id: UUID, at: datetime, failure: Failure
) -> None:
    """Keep a run that has failed; one of a deployment that no definition has is left alone.

    Args:
        session: The transaction in which the run is counted.
        run_id: Prefect's id of it.
        deployment_id: Its deployment.
        at: When it failed.
        failure: What is kept of it.
    """
    if await _failed_again(session, UUID(run_id), deployment_id, at, failure):
        return
    kept = {
        DeadLetter.run_id: UUID(run_id),
        DeadLetter.occurrence: failure.occurrence,
        DeadLetter.trigger: failure.trigger,
        DeadLetter.parameters: storable(failure.parameters),
        DeadLetter.error: _error(failure),
        DeadLetter.attempts: max(failure.attempts, 1),
        DeadLetter.first_at: at,
        DeadLetter.last_at: at,
    }
    rows = select(
        Definition.tenant,
        Definition.id,
        Definition.name,
        *(literal(value, column.type) for column, value in kept.items()),
    ).where(Definition.deployment_id == deployment_id)
    columns = ["tenant", "definition_id", "name", *(column.key for column in kept)]
    written = insert(DeadLetter).from_select(columns, rows)
    # The same run once more: somebody has let Prefect try it again.
    await session.execute(
        written.on_conflict_do_update(
            index_elements=["run_id"],
            set_={
                "error": written.excluded.error,
                "last_at": written.excluded.last_at,
                "attempts": func.greatest(DeadLetter.attempts, written.excluded.attempts),
                "status": _unless_discarded,
            },
        )
    )


async def _failed_again(
    session: AsyncSession, run_id: UUID, deployment_id: UUID, at: datetime, failure: Failure
) -> bool:
    """Write a replay that failed as well to its letter; return whether there is such a one."""
    of = select(Definition.id).where(Definition.deployment_id == deployment_id).scalar_subquery()
    attempts, same = max(failure.attempts, 1), DeadLetter.run_id == run_id
    again = (
        update(DeadLetter)
        .where(DeadLetter.id == failure.letter_id, DeadLetter.definition_id == of)
        .values(
            status=_unless_discarded,
            attempts=case(
                (same, func.greatest(DeadLetter.attempts, attempts)),
                else_=DeadLetter.attempts + attempts,
            ),
            run_id=run_id,
            error=_error(failure),
            last_at=at,
        )
        .returning(DeadLetter.id)
    )
    return failure.letter_id is not None and bool((await session.execute(again)).first())


def _error(failure: Failure) -> str:
    return str(storable(failure.error)[:LONGEST_ERROR])


_unless_discarded = case((DeadLetter.status == "discarded", "discarded"), else_="open")


async def settle(session: AsyncSession, run_ids: Sequence[str], at: datetime) -> None:
    """Close the open letters of runs that have completed after all, tried again in Prefect."""
    await session.execute(
        update(DeadLetter)
        .where(DeadLetter.run_id == func.any(_uuids(run_ids)), DeadLetter.status == "open")
        .values(status="replayed", decided_at=at, decided_by="rota")
    )


async def reopen(session: AsyncSession, run_ids: Sequence[str]) -> None:
    """Open the letters again whose replays were cancelled: nothing has come of them."""
    await session.execute(
        update(DeadLetter)
        .where(
            DeadLetter.replay_run_id == func.any(_uuids(run_ids)),
            DeadLetter.status == "replayed",
        )
        .values(status="open", decided_at=None, decided_by=None)
    )


def _uuids(run_ids: Sequence[str]) -> list[UUID]:
    return [UUID(one) for one in run_ids]


def storable(value: Any) -> Any:
    """Return a JSON value without the character that PostgreSQL takes nowhere."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, dict):
        return {storable(key): storable(inner) for key, inner in value.items()}
    return [storable(inner) for inner in value] if isinstance(value, list) else value


# -- read and decided on


async def get(engine: AsyncEngine, tenant: str, letter_id: UUID) -> DeadLetter | None:
    """Return a letter, if there is such a one."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        found: DeadLetter | None = await session.scalar(_one(tenant, letter_id))
        return found


def rows(tenant: str, wanted: Wanted) -> Select[Any]:
    """Return the list of a tenant's letters, in no order."""
    return select(*DeadLetter.__table__.columns).where(*_conditions(tenant, wanted))


async def discard(
    engine: AsyncEngine, tenant: str, letter_id: UUID, note: str | None, who: str, at: datetime
) -> DeadLetter | None:
    """Let a letter be; return it, if there is such a one.

    Raises:
        Decided: It has been replayed.
    """
    async with writing(engine, who) as session:
        found = await session.scalar(_one(tenant, letter_id).with_for_update())
        if found is None:
            return None
        if found.status == "replayed":
            raise Decided(f"The dead letter {letter_id} has been replayed.")
        found.status, found.note = "discarded", note
        found.decided_at, found.decided_by = at, who
        return found


@asynccontextmanager
async def replaying(
    engine: AsyncEngine, tenant: str, letter_id: UUID, who: str
) -> AsyncIterator[DeadLetter | None]:
    """Yield a letter that nobody else replays meanwhile, if there is such a one.

    What becomes of it is committed in the end. Who is killed before that has made its run, and
    makes no other when asked again: the run's key is that of this replay.
    """
    async with writing(engine, who) as session:
        yield await session.scalar(_one(tenant, letter_id).with_for_update())


async def oldest(
    engine: AsyncEngine, tenant: str, wanted: Wanted, limit: int
) -> list[tuple[UUID, UUID]]:
    """Return the open letters that failed first, each with its definition's id.

    Those whose definition cannot run come last, or they would hold up the others for ever.
    """
    runs = exists().where(
        Definition.id == DeadLetter.definition_id,
        Definition.problem.is_(None),
        Definition.deployment_id.is_not(None),
    )
    chosen = (
        select(DeadLetter.id, DeadLetter.definition_id)
        .where(*_conditions(tenant, wanted), DeadLetter.status == "open")
        .order_by(runs.desc(), DeadLetter.first_at, DeadLetter.id)
        .limit(limit)
    )
    async with reading(engine) as connection:
        return [(one.id, one.definition_id) for one in await connection.execute(chosen)]


async def last_due(engine: AsyncEngine, tenant: str) -> datetime | None:
    """Return when the latest of a tenant's replays is due; None if there was none."""
    latest = select(func.max(DeadLetter.replay_due)).where(DeadLetter.tenant == tenant)
    async with reading(engine) as connection:
        found: datetime | None = (await connection.execute(latest)).scalar_one()
        return found


def _one(tenant: str, letter_id: UUID) -> Select[tuple[DeadLetter]]:
    return select(DeadLetter).where(DeadLetter.tenant == tenant, DeadLetter.id == letter_id)


def _conditions(tenant: str, wanted: Wanted) -> list[ColumnElement[bool]]:
    found = [DeadLetter.tenant == tenant]
    if wanted.status is not None:
        found.append(DeadLetter.status == wanted.status)
    if wanted.name is not None:
        found.append(DeadLetter.name == wanted.name)
    if wanted.since is not None:
        found.append(DeadLetter.last_at >= wanted.since)
    if wanted.until is not None:
        found.append(DeadLetter.last_at <= wanted.until)
    return found
