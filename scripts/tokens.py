"""`rota token`: who may call the HTTP API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from scripts import session, show
from store import tenants, tokens
from store.models import Token
from store.settings import Settings


async def create(
    settings: Settings,
    role: str,
    tenant: str | None,
    name: str | None,
    days: int | None,
    json: bool,
) -> int:
    """Make a token, and show it this once."""
    if role not in tokens.ROLES:
        raise session.Refused(f"--role: {role!r} is none of {', '.join(tokens.ROLES)}.")
    expires = datetime.now(UTC) + timedelta(days=days) if days else None
    async with session.database(settings) as engine:
        if tenant is not None and await tenants.find(engine, tenant) is None:
            known = [one.tenant.slug for one in await tenants.everyone(engine)]
            like = session.meant(tenant, known, "`rota tenants` names them")
            raise session.Refused(f"There is no tenant {tenant!r}{like}")
        called = name or (role if tenant is None else f"{tenant}-{role}")
        secret, row = await tokens.create(engine, called, role, tenant, expires, session.who())
    if json:
        show.json({"token": secret, **_shown(row)})
        return 0
    show.line(secret)
    show.warn("It is shown this once. Use it as `Authorization: Bearer ...`.")
    return 0


async def list_command(settings: Settings, json: bool) -> int:
    """Print all tokens, without what lets one call."""
    async with session.database(settings) as engine:
        rows = [_shown(one) for one in await tokens.everyone(engine)]
    if json:
        show.json(rows)
        return 0
    columns = ("id", "name", "role", "tenant", "created_at", "expires_at", "last_used_at")
    show.table(columns, ([row[column] for column in columns] for row in rows))
    return 0


async def revoke(settings: Settings, token_id: str) -> int:
    """Delete a token; it is refused from a second later on."""
    try:
        wanted = UUID(token_id)
    except ValueError:
        raise session.Refused(
            f"{token_id!r} is no token's id; `rota token list` names them."
        ) from None
    async with session.database(settings) as engine:
        if not await tokens.revoke(engine, wanted, session.who()):
            raise session.Refused(f"There is no token {token_id}; `rota token list` names them.")
    show.line(f"{token_id} is revoked.")
    return 0


def _shown(row: Token) -> dict[str, object]:
    names = ("id name role tenant created_at created_by expires_at last_used_at").split()
    return {name: getattr(row, name) for name in names}
