"""Projects: what a sweep of a source has found, and what has gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store import listings, notices
from store.recording import recording
from store.records import Project
from store.writing import writing

CYCLES = 1000
"""So many sweeps in which a project was missing are remembered, so that each counts once."""

MASS = 5
"""Fewer may become missing at once, however large a part of their source they are."""


class MassChange(Exception):
    """More than half of a source's projects would become missing at once.

    Attributes:
        missing: How many would.
        of: How many of the source are there: neither missing nor archived.
    """

    def __init__(self, missing: int, of: int) -> None:
        super().__init__(f"{missing} of {of} projects would become missing at once")
        self.missing = missing
        self.of = of


@dataclass(frozen=True)
class Sweep:
    """What a source was found to have.

    Attributes:
        source: Such as `github:acme`; repository ids are one provider's, which stands before the
            colon.
        projects: Columns and values of each, `repository_id` and `name` among them; what is left
            out stays as it is.
        present: The repository ids of all that the source has, beside those of `projects`; None
            where that is not known, and nothing becomes missing.
        cycle: The sweep's name, by which it counts once, however often it is written.
        archive_after: In how many sweeps on end a project is missing when it is archived.
        allow_mass_change: Whether more than half of the source may become missing at once.
        listed_at: When the source was asked; None if nobody knows.
    """

    source: str
    projects: Sequence[Mapping[str, Any]]
    present: frozenset[int] | None = None
    cycle: str | None = None
    archive_after: int = 3
    allow_mass_change: bool = False
    listed_at: datetime | None = None

    @property
    def ids(self) -> frozenset[int]:
        """The repository ids of all that was seen."""
        return frozenset(one["repository_id"] for one in self.projects) | (self.present or set())


@dataclass
class Swept:
    """What became of each project, by its name.

    Each of the sweep's `projects` is created, updated or unchanged; what has come back is beside
    that `returned`. What is not there is `missing`, or `gone` when it is archived for that.
    """

    created: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)


async def sweep(engine: AsyncEngine, tenant: str, found: Sweep) -> Swept:
    """Write what a source was found to have, all of it or nothing.

    Raises:
        store.listings.LaterList: What was asked for later has been written.
        MassChange: Too much of it would become missing.
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    swept = Swept()
    async with recording(engine, tenant, "projects") as session:
        await listings.note(session, tenant, "projects", found.source, found.listed_at)
        # Documents of these can be written beside.
        locked = _concerned(tenant, found).with_for_update(key_share=True)
        rows = list(await session.scalars(locked))
        there = [one for one in rows if one.source == found.source and one.status != "archived"]
        were = sum(one.status != "missing" for one in there)
        seen = _put(session, tenant, found, rows, swept)
        absent = [one for one in there if one.id not in seen]
        if found.present is not None and absent:
            _check_mass(found, absent, were)
            await _miss(session, tenant, found, absent, swept)
        await session.flush()
        now = func.now()
        await session.execute(
            update(Project).where(Project.id == func.any(list(seen))).values(last_seen_at=now),
            execution_options={"synchronize_session": False},
        )
    return swept


def _concerned(tenant: str, found: Sweep) -> Select[tuple[Project]]:
    provider = func.split_part(Project.source, ":", 1) == found.source.partition(":")[0]
    names = [one["name"] for one in found.projects]
    kinds = [
        and_(provider, Project.repository_id == func.any(list(found.ids))),
        and_(Project.repository_id.is_(None), Project.name == func.any(names)),
    ]
    if found.present is not None:
        kinds.append(Project.source == found.source)
    return select(Project).where(Project.tenant == tenant, or_(*kinds)).order_by(Project.id)


def _put(
    session: AsyncSession, tenant: str, found: Sweep, rows: Sequence[Project], swept: Swept
) -> set[UUID]:
    """Write what was seen; return the ids of its rows, but for new ones."""
    known = {row.repository_id: row for row in rows if row.repository_id is not None}
    unlinked = {row.name: row for row in rows if row.repository_id is None}
    items = {one["repository_id"]: one for one in found.projects}
    seen: set[UUID] = set()
    for repository_id, item in items.items():
        row = known.get(repository_id) or unlinked.pop(item["name"], None)
        if row is None:
            status = "archived" if item.get("archived") else "active"
            row = Project(tenant=tenant, source=found.source, status=status, **item)
            row.archived_by_source = status == "archived"
            session.add(row)
            swept.created.append(item["name"])
        else:
            changed = _see(row, {**item, "source": found.source}, swept)
            (swept.updated if changed else swept.unchanged).append(row.name)
            seen.add(row.id)
    for repository_id in found.ids - items.keys():
        if row := known.get(repository_id):
            _see(row, {"source": found.source}, swept)
            seen.add(row.id)
    return seen


def _see(row: Project, values: Mapping[str, Any], swept: Swept) -> bool:
    """Give a project that was seen its values; return whether that changes it."""
    back = row.status == "missing" or (row.status == "archived" and row.missing_cycles > 0)
    if back:
        swept.returned.append(values.get("name", row.name))
    revived = back or row.archived_by_source
    by_person = row.status == "archived" and not revived
    changed = {name: value for name, value in values.items() if getattr(row, name) != value}
    for name, value in changed.items():
        setattr(row, name, value)
    status = "archived" if row.archived else "active" if revived else row.status
    changed_status = status != row.status
    row.status, row.missing_cycles, row.missed_in = status, 0, []
    row.archived_by_source = row.archived and not by_person
    if changed or changed_status:
        row.updated_at = func.now()
    return bool(changed) or changed_status


def _check_mass(found: Sweep, absent: Sequence[Project], of: int) -> None:
    newly = sum(row.status != "missing" for row in absent)
    if not found.allow_mass_change and newly >= MASS and newly * 2 > of:
        raise MassChange(newly, of)


async def _miss(
    session: AsyncSession, tenant: str, found: Sweep, absent: Sequence[Project], swept: Swept
) -> None:
    newly = []
    for row in sorted(absent, key=lambda one: one.name):
        if found.cycle is None:
            row.missing_cycles += 1
        elif found.cycle not in row.missed_in:
            row.missing_cycles += 1
            row.missed_in = [*row.missed_in, found.cycle][-CYCLES:]
        status = "archived" if row.missing_cycles >= found.archive_after else "missing"
        if status != row.status:
            row.updated_at = func.now()
            newly += [row.name] if status == "missing" else []
        row.status = status
        (swept.missing if status == "missing" else swept.gone).append(row.name)
    if newly:
        await _tell(session, tenant, "project_missing", "warning", newly, found)
    if swept.gone:
        await _tell(session, tenant, "project_archived", "critical", swept.gone, found)


async def _tell(
    session: AsyncSession,
    tenant: str,
    kind: str,
    severity: str,
    names: Sequence[str],
    found: Sweep,
) -> None:
    what = "project is" if len(names) == 1 else "projects are"
    become = "missing" if kind == "project_missing" else "archived"
    subject = f"{len(names)} {what} {become}: {notices.named(names)}"
    said = f"{found.source} no longer has {notices.named(names)}."
    if become == "archived":
        said += f" That was so in {found.archive_after} sweeps, so Rota has archived them."
    await notices.write(session, tenant, kind, severity, subject, said)


def wanted(
    tenant: str, status: str | None = None, source: str | None = None, q: str | None = None
) -> Select[tuple[Project]]:
    """Return the list of a tenant's projects.

    Args:
        tenant: Whose.
        status: Those of this status; None for all.
        source: Those of this source; None for all.
        q: A part of the name, in whatever case.
    """
    rows = select(Project).where(Project.tenant == tenant)
    if status is not None:
        rows = rows.where(Project.status == status)
    if source is not None:
        rows = rows.where(Project.source == source)
    return rows.where(Project.name.icontains(q, autoescape=True)) if q else rows


async def get(engine: AsyncEngine, tenant: str, project_id: UUID) -> Project | None:
    """Return a project, if there is such a one."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        found: Project | None = await session.scalar(
            select(Project).where(Project.tenant == tenant, Project.id == project_id)
        )
        return found


async def change(
    engine: AsyncEngine, tenant: str, project_id: UUID, values: Mapping[str, Any]
) -> Project | None:
    """Give a project these values; return it, if there is such a one.

    Whoever sets its status decides it, and no sweep has counted it as missing any more.
    """
    if "status" in values:
        nobody_else = {"missing_cycles": 0, "missed_in": [], "archived_by_source": False}
        values = {**values, **nobody_else}
    changed = (
        update(Project)
        .where(Project.tenant == tenant, Project.id == project_id)
        .values(**values, updated_at=func.now())
        .returning(Project)
    )
    async with writing(engine) as session:
        return (await session.scalars(changed)).one_or_none()
