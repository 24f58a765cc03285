"""What a sweep of checks does to servers and incidents; the rules stand in `health`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store import health, incidents
from store.fleet import Incident, Server, held
from store.health import Check
from store.incidents import Opening, Written


@dataclass(frozen=True)
class Sweep:
    """One look at a fleet.

    Attributes:
        at: When.
        checks: What was found, by the servers' handles.
        failures_needed: Checks in a row that have to find a server down.
        prober: Who looked.
    """

    at: datetime
    checks: Mapping[str, Check]
    failures_needed: int
    prober: str


@dataclass(frozen=True)
class Swept:
    """What follows from a sweep.

    Attributes:
        opened: The incidents that it has opened.
        closed: Those that it has closed.
        states: The state of each server's health, by its handle.
        flapping: The handles of the servers that go up and down.
        prober_failed: Whether it says more of who looked than of the servers.
        unknown: Handles that no server has.
    """

    opened: list[Incident]
    closed: list[Incident]
    states: dict[str, str]
    flapping: list[str]
    prober_failed: bool
    unknown: list[str]


PROBER_FAILED = "prober_failed"


async def record(engine: AsyncEngine, tenant: str, sweep: Sweep, who: str | None = None) -> Swept:
    """Record a sweep; of a server that was looked at as late or later already, nothing changes.

    Incidents that a tenant has no room for are left out, and the rest is recorded.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with held(engine, tenant, who) as session:
        found = await session.scalars(
            select(Server)
            .where(Server.tenant == tenant, Server.handle.in_(sweep.checks))
            .order_by(Server.handle)
            .with_for_update()
        )
        servers = list(found)
        fresh = [one for one in servers if _is_fresh(one, sweep.at)]
        failed = health.prober_failed(
            [
                (health.read(one.health).history, sweep.checks[one.handle].outcome)
                for one in servers
                if not _is_quiet(one, sweep.at)
            ]
        )
        if servers and not fresh:
            written = Written()
        elif failed:
            # Who answered has answered, whatever was wrong on the way to the others.
            up = [one for one in fresh if sweep.checks[one.handle].outcome == "up"]
            written = await _apply(session, tenant, sweep, up, opening=[_blamed(sweep)])
        else:
            # Who failed may have had another name, and a good look is all that it takes.
            over = await incidents.open_about(session, tenant, PROBER_FAILED)
            written = await _apply(session, tenant, sweep, fresh, closing=over)
        known = {one.handle: health.read(one.health) for one in servers}
    return Swept(
        opened=written.opened,
        closed=written.closed,
        states={handle: one.state for handle, one in known.items()},
        flapping=[handle for handle, one in known.items() if one.flapping],
        prober_failed=failed,
        unknown=sorted(sweep.checks.keys() - known.keys()),
    )


async def _apply(
    session: AsyncSession,
    tenant: str,
    sweep: Sweep,
    servers: list[Server],
    opening: Sequence[Opening] = (),
    closing: Sequence[incidents.Identity] = (),
) -> Written:
    opening, closing = [*opening], [*closing]
    found: list[tuple[Server, health.Judged]] = []
    for server in servers:
        judged = health.judge(
            health.read(server.health),
            server.status,
            sweep.checks[server.handle],
            sweep.at,
            sweep.failures_needed,
            maintenance=_in_window(server, sweep.at),
        )
        server.health = health.written(judged.health)
        server.status = judged.status
        server.last_health_check_at = sweep.at
        details = {"prober": sweep.prober}
        opening += [
            Opening(server.handle, one.kind, one.about, one.severity, one.title, details)
            for one in judged.opening
        ]
        closing += [(server.handle, kind, about) for kind, about in judged.closing]
        found.append((server, judged))
    written = await incidents.write_what_fits(session, tenant, sweep.at, opening, closing)
    left = {(one.server, one.kind, one.about) for one in written.left}
    for server, judged in found:
        if judged.health.unclosed:
            settled = health.settled(
                judged, {one for one in judged.closing if (server.handle, *one) in left}
            )
            server.health = health.written(settled)
    return written


def _is_fresh(server: Server, at: datetime) -> bool:
    # The same sweep again, too, is one whose answer was lost.
    return server.last_health_check_at is None or server.last_health_check_at < at


def _is_quiet(server: Server, at: datetime) -> bool:
    return health.is_quiet(server.status) or _in_window(server, at)


def _in_window(server: Server, at: datetime) -> bool:
    return health.in_window(server.maintenance_from, server.maintenance_until, at)


def _blamed(sweep: Sweep) -> Opening:
    failed = sum(one.outcome != "up" for one in sweep.checks.values())
    title = f"{failed} of {len(sweep.checks)} checks by {sweep.prober} failed at once"
    return Opening(None, PROBER_FAILED, sweep.prober, "critical", title, {"failed": failed})
