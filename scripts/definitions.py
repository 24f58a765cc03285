"""Looking at definitions and tenants, and pausing them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from deployments.desired import build_for, next_run, state_of
from deployments.schedule import InvalidSchedule
from scripts import session, show
from scripts.preview import instant
from store import pause as pausing
from store import roster, tenants
from store.models import Definition
from store.settings import Settings

DATES = 5


async def list_command(settings: Settings, tenant: str | None, json: bool) -> int:
    """Print all definitions, or those of one tenant."""
    async with session.database(settings) as engine:
        if tenant is not None:
            await _known_tenant(engine, tenant)
        found = await roster.read(engine, None if tenant is None else [], [tenant or ""])
    if json:
        show.json([_row(one, found.suspended) for one in found.definitions])
        return 0
    columns = ("definition", "duty", "when", "state", "next", "last", "status", "runs", "problem")
    show.table(
        columns,
        (
            (
                one.reference,
                one.duty,
                _when(one),
                state_of(one, found.suspended, datetime.now(UTC)),
                one.next_run_at,
                one.last_run_at,
                one.last_status,
                one.run_count,
                one.problem,
            )
            for one in found.definitions
        ),
    )
    return 0


async def show_command(settings: Settings, reference: str, json: bool) -> int:
    """Print everything about one definition."""
    async with session.database(settings) as engine:
        one = await session.definition(engine, reference)
        suspended = (await roster.read(engine, [])).suspended
    dates = _dates(one, suspended, datetime.now(UTC))
    url = _prefect_url(one)
    if json:
        show.json({**_row(one, suspended), "next_runs": dates, "prefect_url": url})
        return 0
    state = state_of(one, suspended, datetime.now(UTC))
    show.facts({"definition": reference, "state": state, **_facts(one), "in Prefect": url})
    if dates:
        show.line()
        zone = one.timezone
        columns = ("next", "UTC") if zone != "UTC" else ("next",)
        show.table(columns, ([show.when(at, zone), show.when(at)][: len(columns)] for at in dates))
    return 0


async def pause(settings: Settings, reference: str, until: str | None, note: str | None) -> int:
    """Pause a definition."""
    at = instant("--until", until) if until else None
    if at is not None and at <= datetime.now(UTC):
        raise session.Refused(f"--until: {until} has passed; give a time ahead.")
    async with session.database(settings) as engine:
        one = await session.definition(engine, reference)
        await pausing.pause(engine, one.id, at, note, session.who())
    show.line(f"{reference} is paused{f' until {show.when(at, one.timezone)}' if at else ''}.")
    return 0


async def resume(settings: Settings, reference: str) -> int:
    """Let a definition run again."""
    async with session.database(settings) as engine:
        one = await session.definition(engine, reference)
        await pausing.resume(engine, one.id, session.who())
        suspended = (await roster.read(engine, [])).suspended
    show.line(f"{reference} is resumed.")
    if one.tenant in suspended:
        show.warn(
            f"Its tenant {one.tenant} is suspended, so nothing runs; `rota unsuspend {one.tenant}`."
        )
    return 0


async def tenants_command(settings: Settings, json: bool) -> int:
    """Print all tenants."""
    async with session.database(settings) as engine:
        found = await tenants.everyone(engine)
    if json:
        show.json(
            [
                show.row(one.tenant) | {"definitions": one.definitions, "problems": one.problems}
                for one in found
            ]
        )
        return 0
    show.table(
        ("tenant", "title", "definitions", "problems", "suspended", "reason"),
        (
            (
                one.tenant.slug,
                one.tenant.title,
                one.definitions,
                one.problems,
                one.tenant.suspended_at or one.tenant.suspended,
                one.tenant.suspended_reason,
            )
            for one in found
        ),
    )
    return 0


async def suspend(settings: Settings, tenant: str, reason: str | None) -> int:
    """Suspend a tenant."""
    async with session.database(settings) as engine:
        await _known_tenant(engine, tenant)
        await tenants.suspend(engine, tenant, reason, session.who())
    show.line(f"{tenant} is suspended: nothing of it starts until `rota unsuspend {tenant}`.")
    return 0


async def unsuspend(settings: Settings, tenant: str) -> int:
    """Let a tenant's definitions run again."""
    async with session.database(settings) as engine:
        await _known_tenant(engine, tenant)
        await tenants.unsuspend(engine, tenant, session.who())
    show.line(f"{tenant} runs again.")
    return 0


async def _known_tenant(engine: Any, slug: str) -> None:
    known = [one.tenant.slug for one in await tenants.everyone(engine)]
    if slug not in known:
        like = session.meant(slug, known, "`rota tenants` names them")
        raise session.Refused(f"There is no tenant {slug!r}{like}")


def _row(one: Definition, suspended: frozenset[str]) -> dict[str, Any]:
    state = state_of(one, suspended, datetime.now(UTC))
    return {"reference": one.reference, "state": state, **show.row(one)}


def _facts(one: Definition) -> dict[str, Any]:
    row = show.row(one)
    hidden = ("tenant", "name", "enabled", "timezone", "day_and")
    dull = {"overlap": "allow", "retries": 0, "retry_delay_seconds": 0}
    facts = {
        name: value
        for name, value in row.items()
        if name not in hidden and not (name in dull and value == dull[name])
    }
    return {"when": _when(one), **facts}


def _when(one: Definition) -> str:
    if one.cron is not None:
        joined = ", both days" if one.day_and else ""
        return f"{one.cron} ({one.timezone}{joined})"
    if one.interval_seconds is not None:
        return f"every {one.interval_seconds} s"
    if one.after_seconds is not None:
        return f"once, {one.after_seconds} s after the previous run"
    return f"once, {show.when(one.run_at, one.timezone)}" if one.run_at else "on demand"


def _dates(one: Definition, suspended: frozenset[str], at: datetime) -> list[datetime]:
    try:
        schedule = build_for(one)
    except InvalidSchedule:
        return []
    found: list[datetime] = []
    while len(found) < DATES and (due := next_run(one, schedule, suspended, at)):
        found.append(due)
        at = due
    return found


def _prefect_url(one: Definition) -> str | None:
    if one.deployment_id is None:
        return None
    from prefect.settings import get_current_settings

    ui = get_current_settings().ui_url
    return f"{ui}/deployments/deployment/{one.deployment_id}" if ui else None
