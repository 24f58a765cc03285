"""Servers: as their provider lists them, one at a time, and lists of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store import notices
from store.fleet import Notice, Server, ServerChange, held

GIVEN = (
    "provider_id host public_ip addresses capacity_cpu capacity_ram_mb capacity_disk_mb "
    "used_ram_mb used_disk_mb os_template provider_status managed"
).split()
"""The columns that a provider's list gives."""

SUSPICIOUS = 5
"""So many servers have to go at once for it to be held back."""

HANDLE = 63


@dataclass(frozen=True)
class Listed:
    """What a provider says of its servers.

    Attributes:
        provider: Which.
        servers: What it says of each: `provider_id`, perhaps `handle`, and some of `GIVEN`.
        complete: Whether that is all of them, so that others are gone.
        cycle: The sweep; None if it has no name.
        allow_mass_change: Believe it, however many are gone.
    """

    provider: str
    servers: Sequence[Mapping[str, Any]]
    complete: bool = False
    cycle: str | None = None
    allow_mass_change: bool = False


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
    """So many servers are gone that the provider may have answered wrongly."""

    def __init__(self, provider: str, gone: int, known: int) -> None:
        super().__init__(f"{gone} of {known} servers of {provider} would become missing")


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
        Unfit: One of them cannot be written.
        MassChange: More than half of the servers would become missing, and at least 5.
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    done = Written()
    async with held(engine, tenant, who) as session:
        whole = select(Server).where(Server.tenant == tenant).order_by(Server.handle)
        everyone = list(await session.scalars(whole.with_for_update()))
        rows = [one for one in everyone if one.provider == listed.provider]
        handles = {one.handle for one in everyone}
        seen = []
        for number, (item, known) in enumerate(_matched(listed.servers, rows)):
            if known is None:
                known = _new(tenant, listed.provider, item, number, handles)
                session.add(known)
                done.created.append(known.handle)
            else:
                _update(known, item, done)
            seen.append(known)
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
    return done


def _matched(
    items: Sequence[Mapping[str, Any]], rows: Sequence[Server]
) -> list[tuple[Mapping[str, Any], Server | None]]:
    """Return each item with the row that is the same server: by its id, then by its address."""
    ids: dict[str, int] = {}
    for number, item in enumerate(items):
        if (first := ids.setdefault(item["provider_id"], number)) != number:
            raise Unfit(number, "provider_id", f"it is that of servers.{first} too")
    by_id = {one.provider_id: one for one in rows if one.provider_id is not None}
    by_ip: dict[str | None, Server] = {
        one.public_ip: one
        for one in rows
        if one.public_ip is not None and one.provider_id not in ids
    }
    return [
        (item, by_id.get(item["provider_id"]) or by_ip.pop(item.get("public_ip", ""), None))
        for item in items
    ]


def _new(
    tenant: str, provider: str, item: Mapping[str, Any], number: int, handles: set[str]
) -> Server:
    handle = item.get("handle") or _free(item["provider_id"], handles)
    if handle in handles:
        raise Unfit(number, "handle", f"{handle!r} is another server's")
    handles.add(handle)
    managed = item.get("managed", False)
    values = {name: item[name] for name in GIVEN if name in item} | {"managed": managed}
    status = "pending_setup" if managed else "reserved"
    return Server(tenant=tenant, handle=handle, provider=provider, status=status, **values)


def _free(provider_id: str, handles: set[str]) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", provider_id.lower())[: HANDLE - 10]
    base = f"vps-{slug}".rstrip("-")
    return next(
        handle
        for number in range(1, len(handles) + 2)
        if (handle := base if number == 1 else f"{base}-{number}") not in handles
    )


def _update(known: Server, item: Mapping[str, Any], done: Written) -> None:
    before = (known.status, known.managed)
    differing = {
        name: item[name] for name in GIVEN if name in item and item[name] != getattr(known, name)
    }
    for name, value in differing.items():
        setattr(known, name, value)
    known.status = _status(known, was_managed=before[1])
    if before[0] == "missing" and known.status != "missing":
        known.gone_cycle = None
        done.returned.append(known.handle)
    if before[1] and not known.managed:
        done.demoted.append(known.handle)
    same = not differing and known.status == before[0]
    (done.unchanged if same else done.updated).append(known.handle)


def _status(known: Server, was_managed: bool) -> str:
    """Return the status of a server that its provider lists.

    Never `pending_setup`: what was in use before would be set up anew, and lose what it holds.
    """
    if known.status == "decommissioned":
        return known.status
    if known.status == "missing" or known.managed != was_managed:
        return "active" if known.managed else "reserved"
    return known.status


def _miss(rows: Sequence[Server], seen: set[str], listed: Listed) -> list[str]:
    """Let those be missing that were not seen; return their handles."""
    present = [one for one in rows if one.status not in ("missing", "decommissioned")]
    gone = [one for one in present if one.handle not in seen]
    too_many = len(gone) >= SUSPICIOUS and len(gone) * 2 > len(present)
    if too_many and not listed.allow_mass_change:
        raise MassChange(listed.provider, len(gone), len(present))
    for one in gone:
        one.status = "missing"
        one.gone_cycle = listed.cycle
    return [one.handle for one in gone]


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
        for name, value in values.items():
            setattr(found, name, value)
        return await _fresh(session, found)


async def remove(engine: AsyncEngine, tenant: str, handle: str, who: str | None = None) -> bool:
    """Delete a server and its incidents; return whether there was such a one.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with held(engine, tenant, who) as session:
        found = await session.scalar(_one(tenant, handle).with_for_update())
        if found is not None:
            await session.delete(found)
        return found is not None


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
