"""Incidents: at most one open of a kind, each opened and closed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Select, Text, and_, cast, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store import notices
from store.fleet import Incident, Notice, Server, held

MOST_OPEN = 10_000
"""Incidents that a tenant may have open: more are a fault of whoever opens them."""

ROOMY = MOST_OPEN * 9 // 10
"""From so many down, a tenant that had too many has room again."""

Identity = tuple[str | None, str, str]
"""Which incident of a tenant: the server's handle, the kind, and what it is about."""

CROWDED: Identity = (None, "too_many_incidents", "")
"""The incident that says that others were left out; it does not count itself."""


@dataclass(frozen=True)
class Opening:
    """An incident that is to be open, whether or not it is already.

    Attributes:
        server: The server's handle; None where it is about none.
        kind: Of which kind.
        about: What it is about; empty where there is one of its kind only.
        severity: `warning` or `critical`.
        title: The same for people.
        details: More of it, for programs.
    """

    server: str | None
    kind: str
    about: str
    severity: str
    title: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        """Which incident it is."""
        return self.server, self.kind, self.about


@dataclass(frozen=True)
class Written:
    """What became of incidents.

    Attributes:
        opened: Those that were not open.
        still_open: Those that were open already, and are to be.
        closed: Those that were open, and are not to be.
        left: Those that were to be closed, but were seen open later.
    """

    opened: list[Incident] = field(default_factory=list)
    still_open: list[Incident] = field(default_factory=list)
    closed: list[Incident] = field(default_factory=list)
    left: list[Incident] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """Which incidents are asked for; None asks for any.

    Attributes:
        status: `detected`, `recovering` or `resolved`.
        kind: Of this kind.
        server: Of the server of this handle.
        open: Those that are not resolved, or those that are.
    """

    status: str | None = None
    kind: str | None = None
    server: str | None = None
    open: bool | None = None


class Resolved(Exception):
    """The incident is over, and stays as it is."""


class TooMany(Exception):
    """More incidents would be open than a tenant may have.

    Attributes:
        number: How many that would be.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class NoServer(Exception):
    """An incident is about a server that is not there.

    Attributes:
        number: Its place among those to be opened, from 0.
        handle: The server's handle.
    """

    def __init__(self, number: int, handle: str) -> None:
        super().__init__(handle)
        self.number, self.handle = number, handle


async def put(
    engine: AsyncEngine,
    tenant: str,
    at: datetime,
    opening: Sequence[Opening],
    closing: Sequence[Identity],
    who: str | None = None,
) -> Written:
    """Open and close incidents, all of them or none.

    Raises:
        NoServer: One is about a server that is not there.
        TooMany: More than 10,000 would be open.
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with held(engine, tenant, who) as session:
        handles = {one.server for one in opening if one.server is not None}
        known = select(Server.handle).where(Server.tenant == tenant, Server.handle.in_(handles))
        missing = handles - set(await session.scalars(known))
        for number, one in enumerate(opening):
            if one.server in missing:
                raise NoServer(number, one.server)
        return await write(session, tenant, at, opening, closing)


async def write(
    session: AsyncSession,
    tenant: str,
    at: datetime,
    opening: Iterable[Opening] = (),
    closing: Iterable[Identity] = (),
) -> Written:
    """Open and close incidents, within `held`, and write the notices of it.

    Args:
        session: That of `held`.
        tenant: Whose.
        at: When they were seen so. What was seen open later is not closed.
        opening: Those that are to be open.
        closing: Those that are to be closed.

    Raises:
        TooMany: More than 10,000 would be open.
    """
    wanted = {one.identity: one for one in opening}
    over = dict.fromkeys(closing)
    there = await _open_of(session, tenant, wanted | over)
    opened, still_open = [], []
    for identity, one in wanted.items():
        if known := there.get(identity):
            _see(known, one, at)
            still_open.append(known)
        else:
            there[identity] = _new(tenant, one, at)
            opened.append(there[identity])
    named = [there[identity] for identity in over if identity in there]
    closed = [one for one in named if one.last_seen_at <= at]
    for known in closed:
        _resolve(known, at)
    if opened:
        number = await _count(session, tenant)
        number += sum(_identity(one) != CROWDED for one in opened)
        if number > MOST_OPEN:
            raise TooMany(number)
    session.add_all(opened)
    await session.flush()
    told = [*map(_opened, opened), *(_closed(one) for one in closed)]
    await notices.write_all(session, told)
    return Written(opened, still_open, closed, [one for one in named if one.last_seen_at > at])


async def write_what_fits(
    session: AsyncSession,
    tenant: str,
    at: datetime,
    opening: Iterable[Opening],
    closing: Iterable[Identity],
) -> Written:
    """Do as `write` does, but leave out new incidents that a tenant has no room for.

    The worst are opened first. While some are left out, an incident `too_many_incidents` is open.
    """
    wanted, over = {one.identity: one for one in opening}, [*closing]
    number = await _count(session, tenant)
    if number + len(wanted) <= ROOMY:
        return await write(session, tenant, at, wanted.values(), [*over, CROWDED])
    there = await _open_of(session, tenant, [*wanted, *over])
    ending = {one for one in over if one in there and there[one].last_seen_at <= at}
    new = sorted((one for name, one in wanted.items() if name not in there), key=_urgency)
    room = max(MOST_OPEN - number + len(ending), 0)
    fitting = [one for name, one in wanted.items() if name in there] + new[:room]
    if len(new) > room:
        title = f"{MOST_OPEN} incidents are open, and others are left out until some are closed"
        fitting.append(Opening(*CROWDED, "critical", title))
    elif MOST_OPEN - room + len(new) <= ROOMY:
        over.append(CROWDED)
    return await write(session, tenant, at, fitting, over)


async def close_of(session: AsyncSession, tenant: str, handles: Sequence[str]) -> None:
    """Close whatever is open of servers, within `held`, and write the notices of it.

    That is for servers that nobody checks any more.
    """
    if not handles:
        return
    of = Incident.server == func.any(cast(list(handles), ARRAY(Text)))
    found = await session.scalars(_open(tenant).where(of).with_for_update())
    now = await session.scalar(select(func.now()))
    assert now is not None
    told = []
    for one in found:
        _resolve(one, max(now, one.detected_at))
        told.append(_closed(one))
    await session.flush()
    await notices.write_all(session, told)


async def open_about(session: AsyncSession, tenant: str, kind: str) -> list[Identity]:
    """Return which incidents of a kind are open that are about no server."""
    found = _open(tenant).where(Incident.server.is_(None), Incident.kind == kind)
    return [_identity(one) for one in await session.scalars(found)]


async def change(
    engine: AsyncEngine,
    tenant: str,
    incident_id: UUID,
    at: datetime,
    status: str | None = None,
    details: Mapping[str, Any] | None = None,
    who: str | None = None,
) -> Incident | None:
    """Give an incident another status or other details; return it, if there is such a one.

    Each time that it begins recovering counts as an attempt.

    Raises:
        Resolved: It is resolved, and is to become something else.
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with held(engine, tenant, who) as session:
        found = await session.get(Incident, incident_id, with_for_update=True)
        if found is None or found.tenant != tenant:
            return None
        if details is not None:
            found.details = dict(details)
        if status is None or status == found.status:
            return found
        if found.status == "resolved":
            raise Resolved
        if status == "resolved":
            _resolve(found, max(at, found.detected_at))
            await notices.write_all(session, [_closed(found)])
        else:
            found.recovery_attempts += status == "recovering"
            found.status = status
        return found


async def get(engine: AsyncEngine, tenant: str, incident_id: UUID) -> Incident | None:
    """Return an incident, if there is such a one."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        found = await session.get(Incident, incident_id)
        return found if found is not None and found.tenant == tenant else None


def rows(tenant: str, wanted: Wanted) -> Select[Any]:
    """Return the list of a tenant's incidents, in no order."""
    conditions: list[ColumnElement[bool]] = [Incident.tenant == tenant]
    if wanted.status is not None:
        conditions.append(Incident.status == wanted.status)
    if wanted.kind is not None:
        conditions.append(Incident.kind == wanted.kind)
    if wanted.server is not None:
        conditions.append(Incident.server == wanted.server)
    if wanted.open is not None:
        is_open = Incident.status != "resolved"
        conditions.append(is_open if wanted.open else ~is_open)
    return select(*Incident.__table__.columns).where(*conditions)


def _open(tenant: str) -> Select[tuple[Incident]]:
    return select(Incident).where(Incident.tenant == tenant, Incident.status != "resolved")


async def _open_of(
    session: AsyncSession, tenant: str, identities: Iterable[Identity]
) -> dict[Identity, Incident]:
    """Return those of these incidents that are open, and lock them."""
    columns = [list(column) for column in zip(*identities, strict=True)] or [[], [], []]
    # As the unique index has it, which finds them.
    columns[0] = [server or "" for server in columns[0]]
    arrays = [cast(column, ARRAY(Text)) for column in columns]
    sought = func.unnest(*arrays).table_valued("server", "kind", "about").render_derived()
    same = and_(
        func.coalesce(Incident.server, "") == sought.c.server,
        Incident.kind == sought.c.kind,
        Incident.about == sought.c.about,
    )
    found = _open(tenant).join(sought, same).with_for_update(of=Incident)
    return {_identity(one): one for one in await session.scalars(found)}


async def _count(session: AsyncSession, tenant: str) -> int:
    server, kind, about = CROWDED
    itself = and_(Incident.server.is_(server), Incident.kind == kind, Incident.about == about)
    counted = _open(tenant).where(~itself).subquery()
    return await session.scalar(select(func.count()).select_from(counted)) or 0


def _urgency(one: Opening) -> tuple[bool, bool]:
    # What a server has one of at most goes before what it may have many of, such as disks.
    return one.severity != "critical", bool(one.about)


def _identity(incident: Incident) -> Identity:
    return incident.server, incident.kind, incident.about


def _new(tenant: str, one: Opening, at: datetime) -> Incident:
    return Incident(
        tenant=tenant,
        server=one.server,
        kind=one.kind,
        about=one.about,
        severity=one.severity,
        title=one.title,
        details=dict(one.details),
        detected_at=at,
        last_seen_at=at,
    )


def _see(incident: Incident, one: Opening, at: datetime) -> None:
    if incident.last_seen_at > at:
        return
    incident.last_seen_at = at
    incident.severity, incident.title = one.severity, one.title
    incident.details = dict(one.details)


def _resolve(incident: Incident, at: datetime) -> None:
    incident.status, incident.resolved_at = "resolved", at


def _opened(incident: Incident) -> Notice:
    return Notice(
        tenant=incident.tenant,
        kind="incident_opened",
        severity=incident.severity,
        subject=_subject(incident),
        text=f"{_what(incident)}, seen at {_shown(incident.detected_at)}.",
    )


def _closed(incident: Incident) -> Notice:
    assert incident.resolved_at is not None
    since, until = _shown(incident.detected_at), _shown(incident.resolved_at)
    return Notice(
        tenant=incident.tenant,
        kind="incident_closed",
        severity="info",
        subject=f"Over: {_subject(incident)}",
        text=f"{_what(incident)}, from {since} to {until}.",
    )


def _subject(incident: Incident) -> str:
    return f"{incident.server}: {incident.title}" if incident.server else incident.title


def _what(incident: Incident) -> str:
    of = f" of {incident.server}" if incident.server else ""
    about = f" ({incident.about})" if incident.about else ""
    return f"Incident {incident.kind}{about}{of}, {incident.severity}"


def _shown(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
