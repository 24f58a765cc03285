"""Requests to set servers up: claimed, published, answered; one live request a server.

A request lives as long as the server's status asks for it: a trigger takes it away when that
becomes another than `provisioning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from store import incidents
from store.fleet import Server, held
from store.incidents import Opening


@dataclass(frozen=True)
class Request:
    """A server that is to be set up.

    Attributes:
        handle: The server's handle.
        request_id: The request; the same as before if that was never published.
        is_recovery: Whether setting it up began before, and has not ended in time.
        host: The server's name.
        public_ip: Its address.
    """

    handle: str
    request_id: UUID
    is_recovery: bool
    host: str | None
    public_ip: str | None


@dataclass(frozen=True)
class Result:
    """How setting a server up has ended.

    Attributes:
        request_id: The request that it answers.
        handle: The server's handle.
        success: Whether it is set up.
        error: Why it is not.
        server_ip: The address that it has.
        finished_at: When it ended.
    """

    request_id: UUID
    handle: str
    success: bool
    error: str | None = None
    server_ip: str | None = None
    finished_at: datetime | None = None


@dataclass
class Applied:
    """What became of results.

    Attributes:
        applied: The handles of the servers whose status they have changed.
        superseded: Requests that are not live any more.
        unknown: Requests about servers that are not there.
    """

    applied: list[str] = field(default_factory=list)
    superseded: list[UUID] = field(default_factory=list)
    unknown: list[UUID] = field(default_factory=list)


async def claim(
    engine: AsyncEngine,
    tenant: str,
    at: datetime | None = None,
    *,
    stuck: timedelta,
    cooldown: timedelta,
    limit: int,
    who: str | None = None,
) -> list[Request]:
    """Claim the managed servers that are to be set up; nobody else gets them meanwhile.

    Args:
        engine: The database.
        tenant: Whose servers.
        at: When; by the database's clock, if it is not said. Claims by several clocks may make
            two live requests of one.
        stuck: After how long setting up is begun again, and a published request is made anew.
        cooldown: After how long a request that was never published is handed out again.
        limit: The most servers.
        who: In whose name.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with held(engine, tenant, who) as session:
        # Not that of the transaction, which may have waited for another claim.
        at = at or (await session.scalars(select(func.clock_timestamp()))).one()
        found = await session.scalars(
            select(Server)
            .where(Server.tenant == tenant, Server.managed, *_due(at, stuck, cooldown))
            .order_by(Server.created_at, Server.handle)
            .limit(limit)
            .with_for_update()
        )
        return [_claimed(server, at) for server in found]


def _due(at: datetime, stuck: timedelta, cooldown: timedelta) -> Sequence[ColumnElement[bool]]:
    """Return what holds of servers that are to be set up, and have no request that counts."""
    waiting = or_(
        Server.status == "pending_setup",
        and_(Server.status == "provisioning", Server.provisioning_started_at <= at - stuck),
    )
    unpublished = Server.provisioning_published_at.is_(None)
    free = or_(
        Server.provisioning_request.is_(None),
        and_(unpublished, Server.provisioning_requested_at <= at - cooldown),
        Server.provisioning_requested_at <= at - stuck,
    )
    return waiting, free


def _claimed(server: Server, at: datetime) -> Request:
    # What was not confirmed may be in the queue all the same: the id tells that both are one.
    if server.provisioning_request is None or server.provisioning_published_at is not None:
        server.provisioning_request = uuid4()
    server.provisioning_requested_at = at
    server.provisioning_published_at = None
    return Request(
        handle=server.handle,
        request_id=server.provisioning_request,
        is_recovery=server.status == "provisioning",
        host=server.host,
        public_ip=server.public_ip,
    )


class NotLive(Exception):
    """A request is not the live one of its server: it was answered, or another took its place."""


async def publish(
    engine: AsyncEngine, tenant: str, handle: str, request_id: UUID, who: str | None = None
) -> bool:
    """Note that a live request is in the queue; return whether there is the server.

    Raises:
        NotLive: The request is not live.
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with held(engine, tenant, who) as session:
        server = await session.scalar(
            select(Server).where(Server.tenant == tenant, Server.handle == handle).with_for_update()
        )
        if server is None:
            return False
        if server.provisioning_request != request_id:
            raise NotLive
        if server.provisioning_published_at is None:
            now = await session.scalar(select(func.now()))
            server.provisioning_published_at = now
        return True


async def apply(
    engine: AsyncEngine,
    tenant: str,
    results: Sequence[Result],
    at: datetime,
    who: str | None = None,
) -> Applied:
    """Apply results, each once: only that of a server's live request counts.

    Args:
        engine: The database.
        tenant: Whose servers.
        results: What was answered.
        at: When it is applied.
        who: In whose name.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    done = Applied()
    opening, closing = [], []
    async with held(engine, tenant, who) as session:
        handles = {one.handle for one in results}
        found = await session.scalars(
            select(Server)
            .where(Server.tenant == tenant, Server.handle.in_(handles))
            .order_by(Server.handle)
            .with_for_update()
        )
        servers = {one.handle: one for one in found}
        for one in results:
            server = servers.get(one.handle)
            if server is None:
                done.unknown.append(one.request_id)
            elif server.provisioning_request != one.request_id:
                done.superseded.append(one.request_id)
            else:
                _end(server, one)
                done.applied.append(server.handle)
                if one.success:
                    closing.append((server.handle, "provisioning_failed", ""))
                else:
                    opening.append(_failed(server, one))
        await incidents.write_what_fits(session, tenant, at, opening, closing)
    return done


def _end(server: Server, result: Result) -> None:
    server.provisioning_request = None
    if result.success:
        server.status, server.provisioning_attempts = "ready", 0
        server.public_ip = server.public_ip or result.server_ip
    else:
        server.status = "error"
        server.provisioning_attempts += 1


def _failed(server: Server, result: Result) -> Opening:
    details: dict[str, Any] = {
        "request_id": str(result.request_id),
        "error": result.error,
        "attempts": server.provisioning_attempts,
        "finished_at": result.finished_at and result.finished_at.isoformat(),
    }
    title = "could not be set up" + (f": {result.error[:200]}" if result.error else "")
    return Opening(server.handle, "provisioning_failed", "", "critical", title, details)
