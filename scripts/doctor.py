"""`rota doctor`: one check after another, each with what to do where it does not hold."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from rich.text import Text
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from deployments.gateway import Gateway
from deployments.watch import STALE_SECONDS
from scripts import errors, session, show
from scripts.server import PROJECT
from store import changes, database, status, vectors
from store.models import Change, Definition
from store.settings import Settings

PACKAGES = ("prefect", "fastapi", "sqlalchemy", "asyncpg")
OLDEST_NOTE = timedelta(seconds=60)
LARGEST_DRIFT = timedelta(seconds=2)
SAMPLE = 5
"""Of so many definitions, those due soonest, the runs are looked for."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        subject: What was looked at.
        holds: Whether it is as it must be; None if that cannot be known yet.
        says: What was found.
        remedy: What to do, where it does not hold.
    """

    subject: str
    holds: bool | None
    says: str
    remedy: str = ""


Check = Callable[[], Awaitable[Finding]]


async def doctor(settings: Settings, json: bool) -> int:
    """Print every finding; return 1 if something does not hold."""
    found: list[Finding] = []
    async for finding in _examine(settings):
        found.append(finding)
        if not json:
            _print(finding)
    if json:
        show.json([asdict(finding) for finding in found])
    return 1 if any(finding.holds is False for finding in found) else 0


async def _examine(settings: Settings) -> AsyncIterator[Finding]:
    for finding in versions():
        yield finding
    async with AsyncExitStack() as stack:
        gateway = engine = None
        try:
            gateway = await stack.enter_async_context(session.prefect())
            version = await gateway.version()
        except Exception as error:
            gateway = None
            yield _failed("Prefect's server", error, "start it, or mend PREFECT_API_URL")
        try:
            address = await session.find(settings)
            engine = await stack.enter_async_context(database.opened(address))
            yield await _server(engine)
            await session.check_tables(engine)
            yield Finding("database's tables", True, f"revision {database.newest()}")
        except Exception as error:
            engine = None
            yield _failed("definitions database", error, "the README says how to set it up")
        if gateway is not None:
            yield _prefect_version(version)
        for subject, check in _checks(settings, engine, gateway):
            try:
                yield await check()
            except Exception as error:
                yield _failed(subject, error, "see what is said above")


def _checks(
    settings: Settings, engine: AsyncEngine | None, gateway: Gateway | None
) -> Iterator[tuple[str, Check]]:
    if gateway is not None:
        there = gateway
        yield "work pool", lambda: _pool(there, settings.work_pool)
        yield "leases", lambda: _leases(there)
    if engine is not None:
        base = engine
        yield "watch", lambda: _watch(base)
        yield "changes", lambda: _notes(base)
        yield "problems", lambda: _problems(base)
        yield "clocks", lambda: _clocks(base)
        yield "vectors", lambda: _vectors(base)
        if gateway is not None:
            yield "scheduler", lambda: _scheduler(base, there)


# -- what is installed


def versions() -> Iterator[Finding]:
    """Compare what is installed with what the project asks for."""
    python, wanted = _wanted()
    installed = {"python": platform.python_version()}
    installed |= {name: metadata.version(name) for name in PACKAGES}
    ranges = {"python": python, **{name: wanted[name] for name in PACKAGES if name in wanted}}
    for name, allowed in ranges.items():
        holds = allowed.contains(Version(installed[name]), prereleases=True)
        remedy = "install Rota anew, with constraints.txt" if name != "python" else "use another"
        says = installed[name] if holds else f"{installed[name]}, not {allowed}"
        yield Finding(name, holds, says, "" if holds else remedy)


def _wanted() -> tuple[SpecifierSet, dict[str, SpecifierSet]]:
    # A checkout's own file is newer than what was written down when it was installed.
    path = PROJECT / "pyproject.toml"
    if path.exists():
        project = tomllib.loads(path.read_text())["project"]
        python, lines = project["requires-python"], project["dependencies"]
    else:
        python = metadata.metadata("rota")["Requires-Python"]
        lines = metadata.requires("rota") or []
    wanted = [Requirement(line) for line in lines]
    return SpecifierSet(python), {one.name.lower(): one.specifier for one in wanted}


# -- the database


async def _server(engine: AsyncEngine) -> Finding:
    try:
        async with engine.connect() as connection:
            number = int((await connection.execute(text("show server_version_num"))).scalar_one())
            said = (await connection.execute(text("show server_version"))).scalar_one()
    except OSError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise session.Refused(f"{where} does not answer ({error or 'in time'})") from error
    remedy = "" if number >= 140000 else "Rota needs PostgreSQL 14 or newer"
    return Finding("definitions database", number >= 140000, f"PostgreSQL {said}", remedy)


async def _watch(engine: AsyncEngine) -> Finding:
    found = await status.marked(engine, "watch")
    if found is None:
        return Finding("watch", False, "it has never run", "start `rota watch` or `rota up`")
    age, who = found
    says = f"heard of {age.total_seconds():.0f} s ago, on {who['host']} (process {who['pid']})"
    holds = age < timedelta(seconds=STALE_SECONDS)
    return Finding("watch", holds, says, "" if holds else "start `rota watch` or `rota up`")


async def _notes(engine: AsyncEngine) -> Finding:
    waiting = await changes.waiting(engine)
    async with AsyncSession(engine) as session_:
        age = await session_.scalar(
            select(func.clock_timestamp() - func.min(Change.noted_at)).select_from(Change)
        )
    if not waiting or age is None or age <= OLDEST_NOTE:
        return Finding("changes", True, f"{waiting} wait, none for long")
    says = f"{waiting} wait to be dealt with, the oldest for {age.total_seconds():.0f} s"
    return Finding("changes", False, says, "see what `rota watch` logs")


async def _problems(engine: AsyncEngine) -> Finding:
    async with AsyncSession(engine) as session_:
        count = await session_.scalar(
            select(func.count()).select_from(Definition).where(Definition.problem.is_not(None))
        )
    if not count:
        return Finding("problems", True, "no definition has one")
    have = "definition has a problem" if count == 1 else "definitions have a problem"
    return Finding("problems", False, f"{count} {have}", "`rota list` says which and why")


async def _clocks(engine: AsyncEngine) -> Finding:
    async with engine.connect() as connection:
        before = datetime.now(UTC)
        theirs = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
        after = datetime.now(UTC)
    # Somewhere between the two, theirs was read.
    off = max(before - theirs, theirs - after, timedelta())
    holds = off <= LARGEST_DRIFT
    says = f"this host and the database differ by {off.total_seconds():.1f} s"
    return Finding("clocks", holds, says, "" if holds else "have NTP set both")


async def _vectors(engine: AsyncEngine) -> Finding:
    async with engine.connect() as connection:
        version = await vectors.version(connection)
        there = await vectors.available(connection)
    if version is None:
        remedy = "install pgvector, `create extension vector`, and then `rota db upgrade`"
        return Finding("vectors", True, "no pgvector, so search goes by word alone", remedy)
    remedy = "" if there else "`rota db upgrade` makes their table"
    return Finding("vectors", there, f"pgvector {version}", remedy)


# -- Prefect


def _prefect_version(server: str) -> Finding:
    client = metadata.version("prefect")
    holds = Version(server).release[:2] == Version(client).release[:2]
    remedy = "" if holds else "bring both to one version"
    return Finding("Prefect's server", holds, f"{server}, the client {client}", remedy)


async def _pool(gateway: Gateway, name: str) -> Finding:
    pools = await gateway.work_pools()
    if name not in pools:
        remedy = f"`prefect work-pool create {name} --type inline`"
        return Finding("work pool", False, f"there is no pool {name!r}", remedy)
    if pools[name]["is_paused"]:
        remedy = f"`prefect work-pool resume {name}`"
        return Finding("work pool", False, f"the pool {name!r} is paused", remedy)
    online = [one["name"] for one in await gateway.workers(name) if one["status"] == "ONLINE"]
    if not online:
        remedy = f"`prefect worker start --pool {name}`"
        return Finding("work pool", False, f"no worker polls {name!r}", remedy)
    return Finding("work pool", True, f"{', '.join(online)} polls {name!r}")


async def _leases(gateway: Gateway) -> Finding:
    found: Any = await gateway.server_settings()
    storage = str(found["server"]["concurrency"]["lease_storage"])
    if storage.endswith(".memory"):
        remedy = "give the server this project's prefect.toml: a restart keeps slots for ever"
        return Finding("leases", False, "the server keeps them in memory", remedy)
    return Finding("leases", True, f"kept by {storage.rpartition('.')[2]}")


async def _scheduler(engine: AsyncEngine, gateway: Gateway) -> Finding:
    now = datetime.now(UTC)
    async with AsyncSession(engine) as session_:
        rows = await session_.execute(
            select(Definition.tenant, Definition.name, Definition.deployment_id)
            .where(Definition.next_run_at > now, Definition.deployment_id.is_not(None))
            .where(Definition.enabled, Definition.problem.is_(None))
            .where(func.coalesce(Definition.paused_until, now) <= now)
            .where(func.coalesce(Definition.starts_at, now) <= now)
            .order_by(Definition.next_run_at)
            .limit(SAMPLE)
        )
        due = {f"{tenant}/{name}": str(deployment_id) for tenant, name, deployment_id in rows}
    if not due:
        return Finding("scheduler", None, "not known yet: no definition is due by a schedule")
    for reference, deployment_id in due.items():
        runs = await gateway.runs(deployment_id, 1, ("SCHEDULED",))
        if not any(datetime.fromisoformat(one["expected_start_time"]) > now for one in runs):
            says = f"{reference} is due, and there is no run of it"
            return Finding("scheduler", False, says, "see what Prefect's server logs")
    return Finding("scheduler", True, f"the next runs are there of {', '.join(due)}")


# -- saying it


def _failed(subject: str, error: Exception, remedy: str) -> Finding:
    said = errors.sentence(error)
    if said is None:
        raise error
    return Finding(subject, False, said.rstrip("."), remedy)


def _print(finding: Finding) -> None:
    signs = {True: ("ok", "green"), False: ("no", "bold red"), None: ("??", "yellow")}
    sign, style = signs[finding.holds]
    line = Text.assemble((f"{sign}  ", style), f"{finding.subject}: {finding.says}")
    if finding.remedy:
        line.append(f"; {finding.remedy}")
    show.console().print(line, soft_wrap=True)
