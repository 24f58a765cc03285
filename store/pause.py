"""Pausing one definition, and resuming it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine

from store.models import Definition
from store.writing import writing


async def pause(
    engine: AsyncEngine,
    definition_id: UUID,
    until: datetime | None,
    note: str | None,
    who: str | None = None,
) -> None:
    """Pause a definition until an instant, or until somebody resumes it."""
    when: dict[str, object] = {"enabled": until is not None, "paused_until": until}
    await _write(engine, definition_id, who, when | {"pause_note": note})


async def resume(engine: AsyncEngine, definition_id: UUID, who: str | None = None) -> None:
    """Let a definition run again, whatever paused it; what is due once and has run, once more."""
    again: dict[str, object] = {"enabled": True, "paused_until": None, "pause_note": None}
    # The trigger clears it again where there is no `after_seconds`.
    counted = {"after_at": func.coalesce(Definition.after_at, func.clock_timestamp())}
    await _write(engine, definition_id, who, again | counted)


async def _write(
    engine: AsyncEngine, definition_id: UUID, who: str | None, values: dict[str, object]
) -> None:
    async with writing(engine, who) as session:
        await session.execute(
            update(Definition).where(Definition.id == definition_id).values(values)
        )
