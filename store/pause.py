"""Pausing one definition, and resuming it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.models import Definition


async def pause(
    engine: AsyncEngine, definition_id: UUID, until: datetime | None, note: str | None
) -> None:
    """Pause a definition until an instant, or until somebody resumes it."""
    when: dict[str, object] = {"enabled": False} if until is None else {"paused_until": until}
    await _write(engine, definition_id, when | {"pause_note": note})


async def resume(engine: AsyncEngine, definition_id: UUID) -> None:
    """Let a definition run again, whatever paused it."""
    await _write(engine, definition_id, {"enabled": True, "paused_until": None, "pause_note": None})


async def _write(engine: AsyncEngine, definition_id: UUID, values: dict[str, object]) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(
            update(Definition).where(Definition.id == definition_id).values(values)
        )
