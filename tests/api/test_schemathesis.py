"""The whole OpenAPI document, called by a machine in the name of each role.

What `st run` makes up is bounded, and the same at every run: its examples, each boundary of each
field, and some cases at random. `schemathesis_hooks.py` leads them to where there is something.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)

PROJECT = "0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"
REQUEST = "7b0e6b1c-5a55-4c4f-9a53-2f6f0a1c9d10"
LETTER = "9b1d7f60-3c2a-4f5e-8a41-6d0c2e7b9f13"
INCIDENT = "5d0c9a52-2f0e-4d5a-8f43-0b8a4d8f2b11"

SECONDS = 240
"""It takes a minute in all, on two cores with nothing else to do."""


@pytest.fixture
async def run_id(remote: Any, watch: Any, sql: asyncpg.Connection, a_definition: Any) -> str:
    """Makes what the calls are about, with a run; returns the run's id."""
    await sql.execute("insert into tenants (slug) values ('acme'), ('globex')")
    # `/readyz` answers 503 where nobody leads, and that is no failure.
    await sql.execute("insert into marks (name, at) values ('watch', '2100-01-01')")
    await sql.execute(
        "insert into projects (tenant, id, name) values ('acme', $1, 'shop')", UUID(PROJECT)
    )
    await sql.execute(
        "insert into servers (tenant, handle, status, provisioning_request) "
        "values ('acme', 'vps-10482', 'pending_setup', $1)",
        UUID(REQUEST),
    )
    await sql.execute(
        "insert into incidents (tenant, id, server, kind, severity, title) "
        "values ('acme', $1, 'vps-10482', 'clock_skew', 'warning', 'Late')",
        UUID(INCIDENT),
    )
    await sql.execute("insert into jobs (tenant, name, command) values ('acme', 'export', 'true')")
    await remote.post("/tenants/acme/definitions", json=a_definition("nightly-sync"))
    await watch.settle()
    await sql.execute(
        "insert into dead_letters (tenant, id, definition_id, name, run_id, occurrence, trigger, "
        "parameters, first_at, last_at) select tenant, $1, id, name, $1, now(), 'schedule', "
        "parameters, now(), now() from definitions where name = 'nightly-sync'",
        UUID(LETTER),
    )
    asked = await remote.post("/tenants/acme/definitions/nightly-sync/run", json={})
    run_id = str(asked.json()["id"])
    steps = [{"name": "hello", "kind": "log", "input": {"text": "Hello"}}]
    await remote.put("/tenants/acme/actions/nightly-sync", json={"steps": steps})
    await remote.put("/tenants/acme/step-templates/nightly-sync", json={"kind": "log"})
    await remote.put(f"/tenants/acme/actions/nightly-sync/runs/{run_id}")
    return run_id


async def _tried_out(remote: Any, served: Any, run_id: str, who: str, *options: str) -> None:
    """Has the API called in somebody's name, and fails with the report if it is found wanting."""
    env = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        "PYTHONPATH": str(HERE),
        "ROTA_TEST_URL": served.url,
        "ROTA_TEST_ADMIN": await remote.token("admin"),
        "ROTA_TEST_ANY_TENANT": str(int("@" not in who)),
        "ROTA_TEST_RUN": run_id,
        "ROTA_TEST_REQUEST": REQUEST,
        "ROTA_TEST_INCIDENT": INCIDENT,
        "ROTA_TEST_LETTER": LETTER,
        "ROTA_TEST_PROJECT": PROJECT,
    }
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("run", f"{served.url}/api/v1/openapi.json", "--checks", ",".join(CHECKS)),
        *("--header", f"Authorization: Bearer {await remote.token(who)}"),
        *("--seed", "1", "--no-color", "--continue-on-failure", "--warnings", "off"),
        *options,
    ]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=env,
        cwd=served.log.parent,  # it leaves files behind
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{served.log.read_text()[-5000:]}"
    assert "Tested: " in done.stdout
    assert "No issues found" in done.stdout


async def test_an_administrator_finds_no_answer_that_was_not_declared(
    remote: Any, served: Any, run_id: str
) -> None:
    phases = ("--phases", "examples,coverage,fuzzing", "--max-examples", "6")
    await _tried_out(remote, served, run_id, "admin", *phases)


async def test_no_other_role_finds_an_answer_that_was_not_declared(
    remote: Any, served: Any, run_id: str
) -> None:
    phases = ("--phases", "examples,fuzzing", "--max-examples", "3")
    for who in ("admin@acme", "editor@acme", "viewer", "worker"):
        await _tried_out(remote, served, run_id, who, *phases)
