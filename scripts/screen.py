"""What `rota up` shows: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.gateway import Gateway, PrefectError
from deployments.spec import owner_tag
from scripts.show import harmless
from store import database, roster
from store.models import Definition
from store.settings import Settings

SECONDS = 2.0
MOST = 15

console = Console(highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print one line at once."""
    console.print(Text(harmless(f"{datetime.now(UTC):%H:%M:%S}  {line}")))
    sys.stdout.flush()


async def show(settings: Settings, engine: AsyncEngine, gateway: Gateway) -> None:
    """Say where everything is and what is due next, then each run that ends."""
    ui = gateway.address.rstrip("/").removesuffix("/api")
    say(f"Prefect's UI: {ui}")
    say(f"The API: http://{settings.api_host}:{settings.api_port}/api/v1, for instance")
    say(
        f'  curl -H "Authorization: Bearer $(cat {settings.api_token_file})" '
        f"http://{settings.api_host}:{settings.api_port}/api/v1/tenants"
    )
    say("The definitions: `.venv/bin/rota db shell`, `.venv/bin/rota list`, `rota --help`")
    for line in _due(await _first_definitions(engine)):
        say(line)
    follow = _Ended(engine, gateway)
    if not console.is_terminal:
        while True:
            for run in await follow.new():
                say(_line(run))
            await asyncio.sleep(SECONDS)
    recent: deque[str] = deque(maxlen=MOST)
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        while True:
            recent.extend(_line(run) for run in await follow.new())
            definitions = await _definitions(engine)
            live.update(Group(_table(definitions), *(Text(line) for line in recent)))
            await asyncio.sleep(SECONDS)


class _Ended:
    """The runs that ended since the last look."""

    def __init__(self, engine: AsyncEngine, gateway: Gateway) -> None:
        self.engine = engine
        self.gateway = gateway
        self.since = datetime.now(UTC)
        self.seen: set[str] = set()

    async def new(self) -> list[dict[str, Any]]:
        try:
            instance = (await roster.read(self.engine, [])).instance
            found = await self.gateway.ended_since(owner_tag(instance), self.since)
        except (PrefectError, *database.AWAY):
            return []  # whoever is away comes back, and its keeper has said so
        fresh = [run for run in reversed(found) if run["id"] not in self.seen]
        self.seen = {run["id"] for run in found}
        if found:
            self.since = datetime.fromisoformat(found[0]["end_time"]) - timedelta(seconds=30)
        return fresh


async def _first_definitions(engine: AsyncEngine) -> list[Definition]:
    """Wait a little for `watch` to have applied what is new."""
    for _ in range(20):
        definitions = await _definitions(engine)
        now = datetime.now(UTC)
        if any(one.next_run_at and one.next_run_at > now for one in definitions):
            return definitions
        await asyncio.sleep(0.5)
    return await _definitions(engine)


async def _definitions(engine: AsyncEngine) -> list[Definition]:
    try:
        return (await roster.read(engine)).definitions
    except database.AWAY:
        return []


def _due(definitions: list[Definition]) -> list[str]:
    due = sorted((one.next_run_at, one.reference) for one in definitions if one.next_run_at)
    return [f"Due {at:%Y-%m-%d %H:%M:%S} UTC: {reference}" for at, reference in due[:5]]


def _line(run: dict[str, Any]) -> str:
    reference = run["labels"].get("rota.reference", run["name"])
    message = (run.get("state") or {}).get("message") or ""
    seconds = float(run["total_run_time"] or 0)
    return harmless(f"{reference}  {run['state_name']}  {seconds:.1f} s  {message[:120]}")


def _table(definitions: list[Definition]) -> Table:
    table = Table("definition", "duty", "next (UTC)", "last (UTC)", "status", "runs", "problem")
    definitions = sorted(
        definitions, key=lambda one: one.next_run_at or datetime.max.replace(tzinfo=UTC)
    )
    for one in definitions[:MOST]:
        table.add_row(
            Text(one.reference),
            Text(one.duty),
            _time(one.next_run_at),
            _time(one.last_run_at),
            Text(one.last_status or ""),
            str(one.run_count),
            Text(harmless(one.problem or "")),
        )
    if len(definitions) > MOST:
        table.caption = f"and {len(definitions) - MOST} more: rota list"
    return table


def _time(at: datetime | None) -> str:
    return f"{at:%m-%d %H:%M:%S}" if at else ""
