"""`rota load` and `rota dump`: a roster as a file."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from deployments import roster_file
from deployments.desired import Rules
from deployments.duties import discover
from scripts import session, show
from store import loading, roster, tenants
from store.loading import Loaded
from store.settings import Settings


async def load(
    engine: AsyncEngine,
    path: Path,
    *,
    tenant: str | None = None,
    prune: bool = False,
    dry_run: bool = False,
) -> Loaded:
    """Write what a file says into the database, all of it or nothing.

    Args:
        engine: The database.
        path: The file; `-` is standard input.
        tenant: Whose definitions they are; None if the file says so.
        prune: Delete what the file does not name of the tenants that it names.
        dry_run: Write nothing, and report what would be.

    Raises:
        deployments.roster_file.BadRoster: Anything in it is not as it must be.
        session.Refused: It cannot be read.
    """
    parsed = roster_file.parse(_read(path), tenant)
    found = await roster.read(engine, [], parsed.rosters.keys())
    duties, broken = discover()
    rules = Rules(found.instance, duties, broken, suspended=found.suspended)
    existing = {one.reference: one for one in found.definitions}
    rosters = list(parsed.rosters.values())
    errors = parsed.errors + roster_file.check(rosters, rules, datetime.now(UTC), existing)
    if errors:
        raise roster_file.BadRoster(errors)
    rows = [one.rows for one in rosters]
    return await loading.load(engine, rows, prune=prune, dry_run=dry_run, who=session.who())


async def load_command(
    settings: Settings, path: Path, tenant: str | None, prune: bool, dry_run: bool, json: bool
) -> int:
    """Load a file, and print what became of each definition."""
    async with session.database(settings) as engine:
        loaded = await load(engine, path, tenant=tenant, prune=prune, dry_run=dry_run)
    said = {
        "deleted": loaded.deleted,
        "created": loaded.created,
        "updated": loaded.updated,
        "unchanged": loaded.unchanged,
    }
    if json:
        show.json({**said, "dry_run": dry_run})
        return 0
    for what in ("deleted", "created", "updated"):
        for reference in said[what]:
            show.line(f"{what} {reference}")
    counts = ", ".join(f"{len(references)} {what}" for what, references in said.items())
    show.line(f"{counts}{' (dry run: nothing was written)' if dry_run else ''}")
    return 0


async def dump_command(settings: Settings, tenant: str | None) -> int:
    """Print the roster as a file that `load` takes back."""
    async with session.database(settings) as engine:
        everyone = [one.tenant for one in await tenants.everyone(engine)]
        chosen = [one for one in everyone if tenant in (None, one.slug)]
        if tenant and not chosen:
            known = [one.slug for one in everyone]
            like = session.meant(tenant, known, "`rota tenants` names them")
            raise session.Refused(f"There is no tenant {tenant!r}{like}")
        found = await roster.read(engine, [], [one.slug for one in chosen])
    sys.stdout.write(roster_file.dump(chosen, found.definitions))
    return 0


def _read(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise session.Refused(f"{path} cannot be read: {error.strerror}.") from error
