"""Checkpoints: what a duty wants to know at its next run."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.recording import recording
from store.records import Checkpoint


class Changed(Exception):
    """Somebody else has written or deleted the checkpoint meanwhile."""


async def get(engine: AsyncEngine, tenant: str, key: str) -> Checkpoint | None:
    """Return a checkpoint, if there is such a one."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        return await session.get(Checkpoint, (tenant, key))


async def put(
    engine: AsyncEngine, tenant: str, key: str, value: Any, replaces: datetime | None = None
) -> Checkpoint:
    """Write a checkpoint; return it.

    Args:
        engine: The database.
        tenant: Whose it is.
        key: Its name.
        value: What is kept.
        replaces: When that was written which it takes the place of; None for whatever is there.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
        Changed: Something else is there by now.
    """
    async with recording(engine, tenant, "checkpoints") as session:
        if replaces is not None:
            there = await session.get(Checkpoint, (tenant, key))
            if there is None or there.updated_at != replaces:
                raise Changed
        written = insert(Checkpoint).values(tenant=tenant, key=key, value=value)
        written = written.on_conflict_do_update(
            index_elements=["tenant", "key"],
            set_={"value": written.excluded.value, "updated_at": func.now()},
        )
        again = {"populate_existing": True}
        return (await session.scalars(written.returning(Checkpoint), execution_options=again)).one()


async def remove(engine: AsyncEngine, tenant: str, key: str) -> bool:
    """Delete a checkpoint; return whether there was such a one.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with recording(engine, tenant, "checkpoints") as session:
        gone = delete(Checkpoint).where(Checkpoint.tenant == tenant, Checkpoint.key == key)
        return await session.scalar(gone.returning(Checkpoint.key)) is not None
