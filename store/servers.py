"""Servers: as their provider lists them, one at a time, and lists of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store import incidents, listings, notices
from store.fleet import Notice, Server, ServerChange, held

GIVEN = (
    "provider_id host public_ip addresses capacity_cpu capacity_ram_mb capacity_disk_mb "
    "used_ram_mb used_disk_mb os_template provider_status managed"
).split()
"""The columns that a provider's list gives."""

SUSPICIOUS = 5
"""So many servers have to go at once for it to be held back."""

HANDLE = 63

GONE = ("missing", "decommissioned")
"""Statuses of servers that are not there: their addresses may be others' by now."""

UNCHECKED = (*GONE, "reserved")
"""Statuses of servers that are not looked after; what was wrong with them is over."""

Pairs = Sequence[tuple[Mapping[str, Any], Server | None]]
"""Items of a list, each with the row that is the same server."""


@dataclass(frozen=True)
class Listed:
    """What a provider says of its servers.

    Attributes:
        provider: Which.
        servers: What it says of each: `provider_id`, perhaps `handle`, and some of `GIVEN`.
        complete: Whether that is all of them, so that others are gone.
        cycle: The sweep; None if it has no name.
        allow_mass_change: Believe it, however many are gone or no longer managed.
        listed_at: When the provider was asked; None if nobody knows.
    """

    provider: str
    servers: Sequence[Mapping[str, Any]]
    complete: bool = False
    cycle: str | None = None
    allow_mass_change: bool = False
    listed_at: datetime | None = None


@dataclass
class Written:
    """What became of servers, by their handles.

    Attributes:
        created: Those that were not known.
        updated: Those of which something differed.
        unchanged: Those that were so already.
        gone: Those that went missing in this sweep.
        returned: Those that were missing, and are not.
        demoted: Those that are no longer managed.
    """

    created: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    demoted: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """Which servers are asked for; None and nothing ask for any.

    Attributes:
        statuses: Of one of these.
        managed: The column `managed`.
        provider: Of this one.
        q: A part of the handle, the host or the address.
    """

    statuses: Sequence[str] = ()
    managed: bool | None = None
    provider: str | None = None
    q: str | None = None


class MassChange(Exception):
    """So many servers are gone, or no longer managed, that it may be a mistake."""


class StillThere(Exception):
    """A server that its provider lists is in service, and is not deleted.

    Attributes:
        status: What it is doing.
    """

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Unfit(Exception):
    """A server cannot be written as it is given.

    Attributes:
        number: Its place in the list, from 0.
        field: Which field does not fit.
    """

    def __init__(self, number: int, field: str, said: str) -> None:
        super().__init__(said)
        self.number, self.field = number, field


async def put(engine: AsyncEngine, tenant: str, listed: Listed, who: str | None = None) -> Written:
    """Write servers as their provider lists them, all of them or none.

    Raises:
        store.listings.LaterList: One that was asked for later has been written.
        Unfit: One of them cannot be written.
        MassChange: More than half of the servers would become missing, or of those that are
            managed no longer be so, and at least 5.
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    done = Written()
    async with held(engine, tenant, who) as session:
        await listings.note(session, tenant, "servers", listed.provider, listed.listed_at)
        whole = select(Server).where(Server.tenant == tenant).order_by(Server.handle)
        everyone = list(await session.scalars(whole.with_for_update()))
        rows = [one for one in everyone if one.provider == listed.provider]
        handles = {one.handle for one in everyone}
        matched = _matched(listed.servers, rows)
        taken = _taken(everyone, matched)
        waiting = await _were_waiting(session, matched)
        managed = {one.handle for one in rows if one.managed and one.status not in GONE}
        seen = []
        for number, (item, known) in enumerate(matched):
            if known is None:
                known = _new(tenant, listed.provider, item, number, handles, taken)
                session.add(known)
                done.created.append(known.handle)
            else:
                _update(known, item, done, known.id in waiting, taken)
            seen.append(known)
        _see_few(listed, managed.intersection(done.demoted), managed, "no longer be managed")
        gone = _miss(rows, {one.handle for one in seen}, listed) if listed.complete else []
        # Those of the same sweep once more: the answer to whoever asks again was lost.
        done.gone = [one.handle for one in rows if one.handle in gone or _went(one, listed)]
        await session.flush()
        ids = [one.id for one in seen]
        await session.execute(
            update(Server).where(Server.id.in_(ids)).values(last_seen_at=func.now()),
            execution_options={"synchronize_session": False},
        )
        await notices.write_all(session, _told(tenant, listed.provider, done, gone))
        await incidents.close_of(session, tenant, [*gone, *done.demoted])
    return done


def _matched(items: Sequence[Mapping[str, Any]], rows: Sequence[Server]) -> Pairs:
    """Return each item with the row that is the same server: by its id, then by its address.

    Not by that of a server that is not there, which the provider may have given to a new one.
    """
    ids: dict[str, int] = {}
    for number, item in enumerate(items):
        if (first := ids.setdefault(item["provider_id"], number)) != number:
            raise Unfit(number, "provider_id", f"it is that of servers.{first} too")
    by_id = {one.provider_id: one for one in rows if one.provider_id is not None}
    by_ip: dict[str | None, Server] = {
        one.public_ip: one
        for one in rows
        if one.public_ip is not None and one.provider_id not in ids and one.status not in GONE
    }
    return [
        (item, by_id.get(item["provider_id"]) or by_ip.pop(item.get("public_ip", ""), None))
        for item in items
    ]


def _taken(everyone: Sequence[Server], matched: Pairs) -> set[str]:
    """Return the addresses at which servers will be that are there already, of any provider."""
    said = {known.handle: item for item, known in matched if known is not None}
    taken: set[str | None] = set()
    for one in everyone:
        if one.status not in GONE:
            item = said.get(one.handle, {})
            taken.add(item.get("public_ip", one.public_ip))
            taken.update(item.get("addresses", one.addresses))
    return {address for address in taken if address is not None}


async def _were_waiting(session: AsyncSession, matched: Pairs) -> set[UUID]:
    """Return those that are back and were to be set up when they went missing."""
    ids = [one.id for _, one in matched if one is not None and one.status == "missing"]
    last = (
        select(ServerChange.server_id, ServerChange.before)
        .where(ServerChange.server_id.in_(ids), ServerChange.after == "missing")
        .distinct(ServerChange.server_id)
        .order_by(ServerChange.server_id, ServerChange.id.desc())
    )
    found = await session.execute(last)
    return {server_id for server_id, before in found if before == "pending_setup"}


def _new(
    tenant: str,
    provider: str,
    item: Mapping[str, Any],
    number: int,
    handles: set[str],
    taken: set[str],
) -> Server:
    handle = item.get("handle") or _free(item["provider_id"], handles)
    if handle in handles:
        raise Unfit(number, "handle", f"{handle!r} is another server's")
    handles.add(handle)
    managed = item.get("managed", False)
    values = {name: item[name] for name in GIVEN if name in item} | {"managed": managed}
    made = Server(tenant=tenant, handle=handle, provider=provider, **values)
    made.status = _set_up(made, taken) if managed else "reserved"
    return made


def _set_up(server: Server, taken: set[str]) -> str:
    """Return the status of a server that is to be set up, and take its address.

    That is `active` where the address is another one's: it would be that one that is set up.
    """
    if server.public_ip is None:
        return "pending_setup"
    if server.public_ip in taken:
        return "active"
    taken.add(server.public_ip)
    return "pending_setup"


def _free(provider_id: str, handles: set[str]) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", provider_id.lower())[: HANDLE - 10]
    base = f"vps-{slug}".rstrip("-")
    return next(
        handle
        for number in range(1, len(handles) + 2)
        if (handle := base if number == 1 else f"{base}-{number}") not in handles
    )


def _update(
    known: Server, item: Mapping[str, Any], done: Written, was_waiting: bool, taken: set[str]
) -> None:
    before = (known.status, known.managed)
    differing = {
        name: item[name] for name in GIVEN if name in item and item[name] != getattr(known, name)
    }
    for name, value in differing.items():
        setattr(known, name, value)
    known.status = _status(known, was_managed=before[1])
    if before == ("missing", True) and known.managed and was_waiting:
        known.status = _set_up(known, taken)
    if before[0] == "missing" and known.status != "missing":
        known.gone_cycle = None
        done.returned.append(known.handle)
    if before[1] and not known.managed:
        done.demoted.append(known.handle)
    same = not differing and known.status == before[0]
    (done.unchanged if same else done.updated).append(known.handle)


def _status(known: Server, was_managed: bool) -> str:
    """Return the status of a server that its provider lists.

    Not `pending_setup`: what was in use before would be set up anew, and lose what it holds.
    """
    if known.status == "decommissioned":
        return known.status
    if known.status == "missing" or known.managed != was_managed:
        return "active" if known.managed else "reserved"
    return known.status


def _miss(rows: Sequence[Server], seen: set[str], listed: Listed) -> list[str]:
    """Let those be missing that were not seen; return their handles."""
    present = [one for one in rows if one.status not in GONE]
    gone = [one for one in present if one.handle not in seen]
    _see_few(listed, gone, present, "become missing")
    for one in gone:
        one.status = "missing"
        one.gone_cycle = listed.cycle
    return [one.handle for one in gone]


def _see_few(listed: Listed, concerned: Collection[Any], of: Collection[Any], what: str) -> None:
    number = len(concerned)
    if number >= SUSPICIOUS and number * 2 > len(of) and not listed.allow_mass_change:
        raise MassChange(f"{number} of {len(of)} servers of {listed.provider} would {what}")


def _went(server: Server, listed: Listed) -> bool:
    named = listed.complete and listed.cycle is not None
    return named and server.status == "missing" and server.gone_cycle == listed.cycle


def _told(tenant: str, provider: str, done: Written, gone: Sequence[str]) -> list[Notice]:
    news = (
        ("server_new", "info", done.created, "new at"),
        ("server_missing", "warning", gone, "no longer listed by"),
        ("server_returned", "info", done.returned, "listed again by"),
        # Several at once are more likely a mistake in the list of those that are managed.
        (
            "server_demoted",
            "warning" if len(done.demoted) < 2 else "critical",
            done.demoted,
            "no longer managed, of",
        ),
    )
    found = []
    for kind, severity, handles, what in news:
        if handles:
            servers = handles[0] if len(handles) == 1 else f"{len(handles)} servers"
            found.append(
                Notice(
                    tenant=tenant,
                    kind=kind,
                    severity=severity,
                    subject=f"{servers}: {what} {provider}",
                    text=f"{what} {provider}: {notices.named(handles)}".capitalize(),
                )
            )
    return found


async def get(engine: AsyncEngine, tenant: str, handle: str) -> Server | None:
    """Return a server, if there is such a one."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        found: Server | None = await session.scalar(_one(tenant, handle))
        return found


async def create(
    engine: AsyncEngine, tenant: str, values: Mapping[str, Any], who: str | None = None
) -> Server | None:
    """Make a server by hand, of the provider `manual`; return it, or None if its handle is taken.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with held(engine, tenant, who) as session:
        if await session.scalar(_one(tenant, values["handle"])) is not None:
            return None
        made = Server(tenant=tenant, **values)
        session.add(made)
        return await _fresh(session, made)


async def change(
    engine: AsyncEngine,
    tenant: str,
    handle: str,
    values: Mapping[str, Any],
    who: str | None = None,
) -> Server | None:
    """Give a server these values; return it, if there is such a one.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with held(engine, tenant, who) as session:
        found = await session.scalar(_one(tenant, handle).with_for_update())
        if found is None:
            return None
        before = (found.status, found.managed)
        for name, value in values.items():
            setattr(found, name, value)
        left = found.status != before[0] and found.status in UNCHECKED
        if left or (before[1] and not found.managed):
            await incidents.close_of(session, tenant, [handle])
        return await _fresh(session, found)


async def remove(engine: AsyncEngine, tenant: str, handle: str, who: str | None = None) -> bool:
    """Delete a server and its incidents; return whether there was such a one.

    Raises:
        StillThere: Its provider may list it, and would have it set up anew.
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with held(engine, tenant, who) as session:
        found = await session.scalar(_one(tenant, handle).with_for_update())
        if found is None:
            return False
        if found.provider != "manual" and found.status not in UNCHECKED:
            raise StillThere(found.status)
        await incidents.close_of(session, tenant, [handle])
        await session.delete(found)
        return True


def rows(tenant: str, wanted: Wanted) -> Select[Any]:
    """Return the list of a tenant's servers, in no order."""
    conditions: list[ColumnElement[bool]] = [Server.tenant == tenant]
    if wanted.statuses:
        conditions.append(Server.status.in_(wanted.statuses))
    if wanted.managed is not None:
        conditions.append(Server.managed == wanted.managed)
    if wanted.provider is not None:
        conditions.append(Server.provider == wanted.provider)
    if wanted.q:
        text = func.concat_ws(" ", Server.handle, Server.host, Server.public_ip)
        conditions.append(text.icontains(wanted.q, autoescape=True))
    return select(*Server.__table__.columns).where(*conditions)


def changes(server_id: UUID) -> Select[Any]:
    """Return the list of the changes of a server's status, in no order."""
    return select(*ServerChange.__table__.columns).where(ServerChange.server_id == server_id)


def _one(tenant: str, handle: str) -> Select[tuple[Server]]:
    return select(Server).where(Server.tenant == tenant, Server.handle == handle)


async def _fresh(session: AsyncSession, row: Server) -> Server:
    await session.flush()
    await session.refresh(row)  # the database has a say in some of its columns
    return row
