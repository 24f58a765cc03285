"""`rota letters`: runs that have failed for good. What a command needs is imported in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import typer

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

app = typer.Typer(help="Runs that have failed for good.", no_args_is_help=True)

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant.")]
LetterId = Annotated[UUID, typer.Argument(metavar="ID", help="The letter's id, as in `list`.")]
Definition = Annotated[str | None, typer.Option(help="Only those of this definition.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def _with_database(work: Callable[[AsyncEngine], Awaitable[None]]) -> None:
    from scripts import session

    settings = session.prepare()

    async def run() -> None:
        async with session.database(settings) as engine:
            await work(engine)

    asyncio.run(run())


@app.command("list")
def list_(
    tenant: TenantName,
    status: Annotated[
        Literal["open", "replayed", "discarded"] | None, typer.Option(help="Only these.")
    ] = None,
    definition: Definition = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """Print a tenant's dead letters, the latest failure first."""

    async def work(engine: AsyncEngine) -> None:
        from scripts import show
        from store import letters, recording

        wanted = letters.rows(tenant, letters.Wanted(status, definition))
        key = (letters.DeadLetter.last_at, letters.DeadLetter.id)
        found = await recording.listed(engine, wanted, key, recording.Part(limit), newest=True)
        if json:
            show.json([dict(row._mapping) for row in found])
            return
        columns = ("id", "name", "occurrence", "status", "attempts", "last_at", "error")
        show.table(columns, ([_cell(getattr(row, name)) for name in columns] for row in found))

    _with_database(work)


@app.command("show")
def show_(tenant: TenantName, letter_id: LetterId, json: Json = False) -> None:
    """Print everything about one dead letter."""

    async def work(engine: AsyncEngine) -> None:
        from scripts import show
        from store import letters

        found = show.row(_there(await letters.get(engine, tenant, letter_id), letter_id))
        show.json(found) if json else show.facts(found)

    _with_database(work)


@app.command()
def replay(tenant: TenantName, letter_id: LetterId) -> None:
    """Make a run for the same occurrence, with the same parameters and the same key."""

    async def work(engine: AsyncEngine) -> None:
        from deployments.letters import replay as replay_one
        from scripts import session, show
        from store.letters import Decided

        now = datetime.now(UTC)
        async with session.prefect() as gateway:
            try:
                found = await replay_one(engine, gateway, tenant, letter_id, now, session.who())
            except Decided as decided:
                raise session.Refused(str(decided)) from None
        show.line(f"{letter_id}: run {_there(found, letter_id).replay_run_id}")

    _with_database(work)


@app.command()
def replay_all(
    tenant: TenantName,
    definition: Definition = None,
    per_minute: Annotated[
        float, typer.Option(help="How many fall due in a minute.", min=0.1, max=6000)
    ] = 60,
    limit: Annotated[int, typer.Option(help="The most.", min=1, max=10_000)] = 100,
    json: Json = False,
) -> None:
    """Replay open dead letters at a rate, those first that failed first."""

    async def work(engine: AsyncEngine) -> None:
        from deployments.letters import replay_many
        from scripts import session, show
        from store.letters import Wanted

        wanted, now = Wanted(name=definition), datetime.now(UTC)
        async with session.prefect() as gateway:
            made = await replay_many(
                engine, gateway, tenant, wanted, limit, per_minute, now, session.who()
            )
        if json:
            runs = {str(one): run_id for one, run_id in made.runs.items()}
            skipped = {str(one): why for one, why in made.skipped.items()}
            show.json({"replayed": runs, "skipped": skipped, "until": made.until})
            return
        for letter_id, why in made.skipped.items():
            show.warn(f"{letter_id}: {why}")
        last = f", the last of them due {show.when(made.until)}" if made.until else ""
        show.line(f"Replayed: {len(made.runs)}{last}. Skipped: {len(made.skipped)}.")

    _with_database(work)


@app.command()
def discard(
    tenant: TenantName,
    letter_id: LetterId,
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
) -> None:
    """Let a dead letter be."""

    async def work(engine: AsyncEngine) -> None:
        from scripts import session, show
        from store import letters

        now = datetime.now(UTC)
        try:
            found = await letters.discard(engine, tenant, letter_id, note, session.who(), now)
        except letters.Decided as decided:
            raise session.Refused(str(decided)) from None
        _there(found, letter_id)
        show.line(f"{letter_id} is discarded.")

    _with_database(work)


def _there(found: Any, letter_id: UUID) -> Any:
    from scripts import session

    if found is None:
        raise session.Refused(
            f"The tenant has no dead letter {letter_id}; `rota letters list` names them."
        )
    return found


def _cell(value: Any) -> Any:
    return value.splitlines()[0][:80] if isinstance(value, str) and value else value
