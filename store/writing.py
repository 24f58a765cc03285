"""Reading in one round trip, and writing in somebody's name, which the audit tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Yield a connection each of whose statements stands for itself.

    A transaction would cost two more round trips than the one statement that most reads are.
    """
    async with _without_transactions(engine).connect() as connection:
        yield connection


@lru_cache(maxsize=8)  # it shares the engine's pool, and takes as long to make as a query
def _without_transactions(engine: AsyncEngine) -> AsyncEngine:
    return engine.execution_options(isolation_level="AUTOCOMMIT")


@asynccontextmanager
async def writing(engine: AsyncEngine, who: str | None = None) -> AsyncIterator[AsyncSession]:
    """Yield a session whose transaction is committed in the end, with its rows of the audit.

    Args:
        engine: The database.
        who: In whose name; None for that of the database's user.
    """
    async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
        if who is not None:
            # For this transaction only: the connection is somebody else's next.
            await session.execute(select(func.set_config("rota.who", who, True)))
        yield session
