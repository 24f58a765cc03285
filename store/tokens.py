"""Tokens: made once, shown once, known by their hash."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from store.models import Token
from store.writing import writing

ROLES = ("admin", "editor", "viewer", "worker")
PREFIX = "rota_"
"""By it, a token that has leaked is found in logs and repositories."""

USED = timedelta(minutes=1)
"""How exactly a token's last use is kept: a write a request would cost more than the request."""


@dataclass(frozen=True)
class Caller:
    """Whose token it is, and what it is good for.

    Attributes:
        id: The token's id.
        name: Its name, by which the audit knows the caller.
        role: One of `ROLES`.
        tenant: The one tenant that it is good for; None for all.
    """

    id: UUID
    name: str
    role: str
    tenant: str | None


async def create(
    engine: AsyncEngine,
    name: str,
    role: str,
    tenant: str | None = None,
    expires_at: datetime | None = None,
    who: str | None = None,
) -> tuple[str, Token]:
    """Make a token; return it, which nobody can do again, and its row.

    Raises:
        sqlalchemy.exc.IntegrityError: A value breaks a constraint; there is no such tenant.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    row = Token(name=name, role=role, tenant=tenant, hash=_hash(secret), expires_at=expires_at)
    if who is not None:
        row.created_by = who
    async with writing(engine, who) as session:
        session.add(row)
        await session.flush()
        await session.refresh(row)
    return secret, row


async def everyone(engine: AsyncEngine) -> list[Token]:
    """Return all tokens, the oldest first."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        return list(await session.scalars(select(Token).order_by(Token.created_at, Token.id)))


async def revoke(engine: AsyncEngine, token_id: UUID, who: str | None = None) -> bool:
    """Delete a token; return whether there was such a one."""
    async with writing(engine, who) as session:
        gone = delete(Token).where(Token.id == token_id).returning(Token.id)
        return await session.scalar(gone) is not None


async def any_valid(engine: AsyncEngine) -> bool:
    """Tell whether anybody holds a token."""
    async with AsyncSession(engine) as session:
        return await session.scalar(select(Token.id).where(_valid()).limit(1)) is not None


async def caller(engine: AsyncEngine, secret: str) -> Caller | None:
    """Return who holds a token; None if it is none, or no longer."""
    async with AsyncSession(engine) as session:
        # What is compared is a hash: how long it takes says nothing of any token.
        columns = (Token.id, Token.name, Token.role, Token.tenant, Token.last_used_at)
        found = await session.execute(
            select(*columns, func.now()).where(Token.hash == _hash(secret), _valid())
        )
        row = found.one_or_none()
        if row is None:
            return None
        id_, name, role, tenant, used, now = row
        if used is None or now - used > USED:
            await session.execute(update(Token).where(Token.id == id_).values(last_used_at=now))
            await session.commit()
        return Caller(id_, name, role, tenant)


def _valid() -> ColumnElement[bool]:
    return or_(Token.expires_at.is_(None), Token.expires_at > func.now())


def _hash(secret: str) -> bytes:
    # A token is random throughout, so there is nothing that a slow hash would protect.
    return hashlib.sha256(secret.encode()).digest()
