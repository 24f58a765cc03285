"""What a person sees in Prefect's UI, in a real browser."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.gateway import Gateway
from deployments.reconcile import Reconciler
from store.settings import Settings

pytestmark = [pytest.mark.acceptance, pytest.mark.needs("chromium", "chromium")]

QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
).split()


async def test_a_row_is_a_deployment_with_its_schedule_in_the_ui(
    engine: AsyncEngine, gateway: Gateway, pool: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    await sql.execute("insert into tenants (slug) values ('0-seen')")
    await sql.execute(
        "insert into definitions (tenant, name, duty, cron, parameters) values "
        "('0-seen', 'hourly', 'workflow_run', '7 * * * *', '{\"workflow_id\": \"w\"}')"
    )
    await Reconciler(engine, gateway, Settings()).sweep()
    address = gateway.address.rstrip("/").removesuffix("/api")
    browser = await asyncio.create_subprocess_exec(
        "chromium",
        *QUIET,
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=20000",
        "--dump-dom",
        f"{address}/deployments?limit=100",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    page, _ = await asyncio.wait_for(browser.communicate(), 120)
    assert "0-seen.hourly" in page.decode()
    assert "At 7 minutes past the hour" in page.decode()
