"""Tokens: made and revoked by command, shown once, kept as a hash, used against the API."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from scripts import serving, session
from scripts.tokens import create, list_command, revoke
from store import database, tokens
from store.settings import Settings


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=SecretStr(database_url), home=tmp_path)


async def _made(settings: Settings, capsys: Any, **what: Any) -> dict[str, Any]:
    """Makes a token by command, and returns what the command prints for programs."""
    given = {"role": "admin", "tenant": None, "name": None, "days": None} | what
    assert await create(settings, **given, json=True) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


async def test_a_token_that_a_command_made_opens_the_api_for_its_role_and_tenant(
    api: Any, acme: str, settings: Settings, capsys: Any
) -> None:
    made = await _made(settings, capsys, role="viewer", tenant=acme)
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert made["name"] == f"{acme}-viewer"
    assert (await api.get(f"/tenants/{acme}", None, headers=headers)).status_code == 200
    answer = await api.put(f"/tenants/{acme}", None, headers=headers, json={})
    assert answer.status_code == 403
    assert (await api.get("/tenants/other", None, headers=headers)).status_code == 404


async def test_the_token_itself_is_stored_nowhere(
    settings: Settings, capsys: Any, sql: asyncpg.Connection
) -> None:
    made = await _made(settings, capsys)
    assert made["token"].startswith("rota_")
    assert len(made["token"]) > 40
    assert await list_command(settings, json=True) == 0
    shown = capsys.readouterr().out
    rows = await sql.fetch(
        "select t::text as kept, encode(hash, 'escape') as hash from tokens t "
        "union all select a::text, '' from audit a"
    )
    for text in (shown, *(row["kept"] + row["hash"] for row in rows)):
        assert made["token"] not in text
        assert made["token"].removeprefix("rota_") not in text


async def test_a_token_is_good_for_as_long_as_it_was_made_for(
    api: Any, settings: Settings, capsys: Any, sql: asyncpg.Connection
) -> None:
    made = await _made(settings, capsys, days=7)
    expires = datetime.fromisoformat(made["expires_at"])
    assert abs(expires - datetime.now(UTC) - timedelta(days=7)) < timedelta(minutes=1)
    headers = {"Authorization": f"Bearer {made['token']}"}
    await sql.execute("update tokens set expires_at = now() + interval '1 hour'")
    assert (await api.get("/tenants", None, headers=headers)).status_code == 200
    await sql.execute("update tokens set expires_at = now()")
    api.app.state.rota.guard._known.clear()
    assert (await api.get("/tenants", None, headers=headers)).status_code == 401


async def test_the_last_use_is_kept_to_the_minute(api: Any, sql: asyncpg.Connection) -> None:
    known = api.app.state.rota.guard._known

    async def used() -> datetime:
        known.clear()
        assert (await api.get("/duties", "worker")).status_code == 200
        found: datetime = await sql.fetchval("select last_used_at from tokens")
        return found

    first = await used()
    assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)
    assert await used() == first  # a write a request would cost more than the request
    await sql.execute("update tokens set last_used_at = now() - interval '2 minutes'")
    assert await used() > first


async def test_a_use_of_a_token_is_no_write_that_is_audited(
    api: Any, sql: asyncpg.Connection
) -> None:
    await api.get("/duties", "worker")
    rows = await sql.fetch("select operation from audit where kind = 'token'")
    assert [row["operation"] for row in rows] == ["insert"]


async def test_a_token_that_is_revoked_is_refused(
    api: Any, settings: Settings, capsys: Any
) -> None:
    made = await _made(settings, capsys)
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert (await api.get("/tenants", None, headers=headers)).status_code == 200
    assert await revoke(settings, made["id"]) == 0
    api.app.state.rota.guard._known.clear()
    assert (await api.get("/tenants", None, headers=headers)).status_code == 401
    with pytest.raises(session.Refused, match="There is no token"):
        await revoke(settings, made["id"])
    with pytest.raises(session.Refused, match="is no token's id"):
        await revoke(settings, "x")


async def test_a_role_or_tenant_that_there_is_not_is_told(
    settings: Settings, acme: str, capsys: Any, sql: asyncpg.Connection
) -> None:
    with pytest.raises(session.Refused, match="'root' is none of admin, editor, viewer, worker"):
        await _made(settings, capsys, role="root")
    with pytest.raises(session.Refused, match=f"did you mean '{acme}'"):
        await _made(settings, capsys, tenant=acme[:-1])
    assert await sql.fetchval("select count(*) from tokens") == 0


async def test_nothing_listens_beyond_this_machine_without_a_token(
    settings: Settings, prefect_server: str, sql: asyncpg.Connection
) -> None:
    beyond = settings.model_copy(update={"api_host": "0.0.0.0", "api_port": 1})
    with pytest.raises(session.Refused, match=r"nobody could use the API on 0\.0\.0\.0"):
        await asyncio.to_thread(serving.serve, beyond)
    async with database.opened(make_url(settings.database_url.get_secret_value())) as engine:  # type: ignore[union-attr]
        past = datetime.now(UTC) - timedelta(days=1)
        await tokens.create(engine, "old", "admin", expires_at=past)
    with pytest.raises(session.Refused):  # one that is over helps nobody
        await asyncio.to_thread(serving.serve, beyond)


@pytest.mark.acceptance
async def test_the_command_prints_the_token_once_and_the_served_api_takes_it(
    served: Any, remote: Any, database_url: str, tmp_path: Path
) -> None:
    env = {**os.environ, "ROTA_DATABASE_URL": database_url, "ROTA_HOME": str(tmp_path)}

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "scripts.rota", "token", *arguments],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    made = json.loads(await asyncio.to_thread(command, "create", "--role", "admin", "--json"))
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert (await remote.get("/tenants", None, headers=headers)).status_code == 200
    await asyncio.to_thread(command, "revoke", made["id"])
    deadline = datetime.now(UTC) + timedelta(seconds=2)  # as is promised
    while (await remote.get("/tenants", None, headers=headers)).status_code == 200:
        assert datetime.now(UTC) < deadline
    assert (await remote.get("/tenants", None, headers=headers)).status_code == 401
