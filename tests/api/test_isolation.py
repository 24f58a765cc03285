"""Whom each route answers. The tests go through the application's own table of routes."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from api import access, control
from store import tokens

ROLES = ("worker", "viewer", "editor", "admin")

# The least role that each route answers, None for anybody at all. A new route has to be put here.
LEAST: dict[str, str | None] = {
    "GET /tenants": "viewer",
    "POST /tenants": "admin",
    "GET /tenants/{tenant}": "viewer",
    "PUT /tenants/{tenant}": "admin",
    "DELETE /tenants/{tenant}": "admin",
    "POST /tenants/{tenant}/suspend": "admin",
    "POST /tenants/{tenant}/resume": "admin",
    "GET /tenants/{tenant}/definitions": "viewer",
    "POST /tenants/{tenant}/definitions": "editor",
    "PUT /tenants/{tenant}/definitions": "editor",
    "GET /tenants/{tenant}/definitions/{name}": "viewer",
    "PUT /tenants/{tenant}/definitions/{name}": "editor",
    "PATCH /tenants/{tenant}/definitions/{name}": "editor",
    "DELETE /tenants/{tenant}/definitions/{name}": "editor",
    "POST /tenants/{tenant}/definitions/{name}/pause": "editor",
    "POST /tenants/{tenant}/definitions/{name}/resume": "editor",
    "POST /tenants/{tenant}/definitions/{name}/run": "editor",
    "GET /tenants/{tenant}/definitions/{name}/preview": "viewer",
    "GET /tenants/{tenant}/definitions/{name}/runs": "viewer",
    "GET /tenants/{tenant}/definitions/{name}/runs/{run_id}": "viewer",
    "GET /tenants/{tenant}/latest-runs": "viewer",
    "GET /tenants/{tenant}/dead-letters": "viewer",
    "POST /tenants/{tenant}/dead-letters/replay": "editor",
    "GET /tenants/{tenant}/dead-letters/{letter_id}": "viewer",
    "POST /tenants/{tenant}/dead-letters/{letter_id}/replay": "editor",
    "POST /tenants/{tenant}/dead-letters/{letter_id}/discard": "editor",
    "GET /tenants/{tenant}/retention": "worker",
    "POST /tenants/{tenant}/retention/forget": "worker",
    "GET /tenants/{tenant}/projects": "worker",
    "PUT /tenants/{tenant}/projects": "worker",
    "GET /tenants/{tenant}/projects/{project_id}": "worker",
    "PATCH /tenants/{tenant}/projects/{project_id}": "worker",
    "GET /tenants/{tenant}/projects/{project_id}/documents": "worker",
    "PUT /tenants/{tenant}/projects/{project_id}/documents": "worker",
    "GET /tenants/{tenant}/documents": "worker",
    "GET /tenants/{tenant}/search": "worker",
    "GET /tenants/{tenant}/checkpoints/{key}": "worker",
    "PUT /tenants/{tenant}/checkpoints/{key}": "worker",
    "DELETE /tenants/{tenant}/checkpoints/{key}": "worker",
    "GET /tenants/{tenant}/servers": "worker",
    "PUT /tenants/{tenant}/servers": "worker",
    "POST /tenants/{tenant}/servers": "worker",
    "GET /tenants/{tenant}/servers/{handle}": "worker",
    "PATCH /tenants/{tenant}/servers/{handle}": "worker",
    "DELETE /tenants/{tenant}/servers/{handle}": "worker",
    "GET /tenants/{tenant}/servers/{handle}/changes": "worker",
    "PUT /tenants/{tenant}/servers/checks": "worker",
    "POST /tenants/{tenant}/servers/provisioning": "worker",
    "POST /tenants/{tenant}/servers/{handle}/provisioning/{request_id}/published": "worker",
    "POST /tenants/{tenant}/servers/provisioning/results": "worker",
    "GET /tenants/{tenant}/incidents": "worker",
    "PUT /tenants/{tenant}/incidents": "worker",
    "GET /tenants/{tenant}/incidents/{incident_id}": "worker",
    "PATCH /tenants/{tenant}/incidents/{incident_id}": "worker",
    "POST /tenants/{tenant}/notices/claim": "worker",
    "GET /tenants/{tenant}/jobs": "worker",
    "POST /tenants/{tenant}/jobs": "editor",
    "GET /tenants/{tenant}/jobs/{job}": "worker",
    "DELETE /tenants/{tenant}/jobs/{job}": "editor",
    "POST /tenants/{tenant}/jobs/{job}/cancel": "editor",
    "POST /tenants/{tenant}/jobs/{job}/requeue": "editor",
    "POST /tenants/{tenant}/jobs/{job}/start": "worker",
    "POST /tenants/{tenant}/jobs/{job}/finish": "worker",
    "GET /tenants/{tenant}/config": "viewer",
    "PUT /tenants/{tenant}/config": "editor",
    "GET /tenants/{tenant}/actions": "viewer",
    "POST /tenants/{tenant}/actions": "editor",
    "GET /tenants/{tenant}/actions/{name}": "viewer",
    "PUT /tenants/{tenant}/actions/{name}": "editor",
    "DELETE /tenants/{tenant}/actions/{name}": "editor",
    "GET /tenants/{tenant}/actions/{name}/runs": "viewer",
    "GET /tenants/{tenant}/actions/{name}/runs/{run_id}": "viewer",
    "PUT /tenants/{tenant}/actions/{name}/runs/{run_id}": "worker",
    "PUT /tenants/{tenant}/actions/{name}/runs/{run_id}/steps/{step}": "worker",
    "GET /tenants/{tenant}/step-templates": "viewer",
    "POST /tenants/{tenant}/step-templates": "editor",
    "GET /tenants/{tenant}/step-templates/{name}": "viewer",
    "PUT /tenants/{tenant}/step-templates/{name}": "editor",
    "DELETE /tenants/{tenant}/step-templates/{name}": "editor",
    "GET /tenants/{tenant}/allowed-addresses": "viewer",
    "PUT /tenants/{tenant}/allowed-addresses": "admin",
    "POST /preview": "worker",
    "GET /duties": "worker",
    "GET /plan": "viewer",
    "POST /apply": "admin",
    "GET /stats": "viewer",
    "GET /audit": "viewer",
    "GET /healthz": None,
    "GET /readyz": None,
    "GET /version": None,
}

# What a token of one tenant gets where no tenant stands in the path: a refusal, its own rows only,
# or what is the same for all.
GLOBAL = {
    "GET /tenants": "own",
    "POST /tenants": "refused",
    "POST /preview": "same",
    "GET /duties": "same",
    "GET /plan": "refused",
    "POST /apply": "refused",
    "GET /stats": "own",
    "GET /audit": "own",
    "GET /healthz": "same",
    "GET /readyz": "same",
    "GET /version": "same",
}

# Bodies that fit, so that it is never the body that is refused.
NIGHTLY = {"duty": "workflow_run", "parameters": {"workflow_id": "x"}, "cron": "0 3 * * *"}
HELLO = {"steps": [{"name": "hello", "kind": "log", "input": {"text": "Hello"}}]}
TEMPLATE = {"kind": "log", "input": {"text": "Hello"}}
AT = "2026-03-01T07:00:00Z"
BODIES: dict[str, Any] = {
    "POST /tenants": {"slug": "initech"},
    "PUT /tenants/{tenant}": {"title": "Another"},
    "POST /tenants/{tenant}/suspend": {"reason": "Unpaid"},
    "POST /tenants/{tenant}/definitions": {"name": "another", **NIGHTLY},
    "PUT /tenants/{tenant}/definitions": {"definitions": [{"name": "nightly", **NIGHTLY}]},
    "PUT /tenants/{tenant}/definitions/{name}": NIGHTLY,
    "PATCH /tenants/{tenant}/definitions/{name}": {"title": "Another"},
    "POST /tenants/{tenant}/definitions/{name}/pause": {"note": "Why"},
    "POST /tenants/{tenant}/definitions/{name}/run": {},
    "POST /tenants/{tenant}/dead-letters/replay": {},
    "POST /tenants/{tenant}/dead-letters/{letter_id}/discard": {"note": "Why"},
    "POST /tenants/{tenant}/retention/forget": {"days": 30},
    "PUT /tenants/{tenant}/projects": {"source": "github:acme", "projects": []},
    "PATCH /tenants/{tenant}/projects/{project_id}": {"summary": "Sells things."},
    "PUT /tenants/{tenant}/projects/{project_id}/documents": {"documents": []},
    "PUT /tenants/{tenant}/checkpoints/{key}": {"value": 412},
    "PUT /tenants/{tenant}/servers": {"provider": "time4vps", "servers": []},
    "POST /tenants/{tenant}/servers": {"handle": "web-2"},
    "PATCH /tenants/{tenant}/servers/{handle}": {"notes": "The old shop."},
    "PUT /tenants/{tenant}/servers/checks": {"at": AT, "checks": [], "prober": "health"},
    "POST /tenants/{tenant}/servers/provisioning": {},
    "POST /tenants/{tenant}/servers/provisioning/results": {"results": []},
    "PUT /tenants/{tenant}/incidents": {"at": AT},
    "PATCH /tenants/{tenant}/incidents/{incident_id}": {"details": {}},
    "POST /tenants/{tenant}/notices/claim": {},
    "POST /tenants/{tenant}/jobs": {"name": "another", "command": "true"},
    "POST /tenants/{tenant}/jobs/{job}/start": {
        "run_id": "3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60",
        "attempt": 1,
        "execution": "e2b1c7de-6c0a-4a4e-8c3f-7f6f1f1c9a55",
    },
    "POST /tenants/{tenant}/jobs/{job}/finish": {
        "execution": "e2b1c7de-6c0a-4a4e-8c3f-7f6f1f1c9a55",
        "exit_code": 0,
    },
    "PUT /tenants/{tenant}/config": {"max_concurrent_jobs": 5},
    "POST /tenants/{tenant}/actions": {"name": "another", **HELLO},
    "PUT /tenants/{tenant}/actions/{name}": HELLO,
    "PUT /tenants/{tenant}/actions/{name}/runs/{run_id}/steps/{step}": {
        "kind": "log",
        "status": "completed",
    },
    "POST /tenants/{tenant}/step-templates": {"name": "another", **TEMPLATE},
    "PUT /tenants/{tenant}/step-templates/{name}": TEMPLATE,
    "PUT /tenants/{tenant}/allowed-addresses": {"addresses": ["10.1.0.0/16"]},
    "POST /preview": {"cron": "0 3 * * *"},
    "POST /apply": {"policy": "create-only"},
}

QUERIES = {"GET /tenants/{tenant}/search": {"q": "docker"}}

# Of one length, so that answers about them are too.
RUN = "3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60"
PROJECT = "0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"
REQUEST = "7b0e6b1c-5a55-4c4f-9a53-2f6f0a1c9d10"
INCIDENT = "5d0c9a52-2f0e-4d5a-8f43-0b8a4d8f2b11"
LETTER = "9b1d7f60-3c2a-4f5e-8a41-6d0c2e7b9f13"
NAMES = {
    "letter_id": LETTER,
    "name": "nightly",
    "run_id": RUN,
    "project_id": PROJECT,
    "key": "position",
    "handle": "web-1",
    "request_id": REQUEST,
    "incident_id": INCIDENT,
    "job": "export",
    "step": "hello",
}
OWN, FOREIGN, NOBODY = "alpha", "bravo", "xenon"


def _with_tenant(routes: list[Any]) -> list[Any]:
    return [route for route in routes if "{tenant}" in route.path]


def _without_tenant(routes: list[Any]) -> list[Any]:
    return [route for route in routes if "{tenant}" not in route.path]


async def _call(api: Any, route: Any, who: str | None, tenant: str = OWN, **what: Any) -> Any:
    path = route.path.format(tenant=tenant, **NAMES)
    body, params = BODIES.get(str(route)), QUERIES.get(str(route))
    return await api.call(route.method, path, who, json=body, params=params, **what)


@pytest.fixture(autouse=True)
async def _rows(sql: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes two tenants that have one definition and one job each, by one name."""
    for slug in (OWN, FOREIGN):
        await sql.execute("insert into tenants (slug, title) values ($1, $1)", slug)
        await sql.execute(
            "insert into definitions (tenant, name, duty, cron, parameters) values "
            "($1, 'nightly', 'workflow_run', '0 3 * * *', '{\"workflow_id\": \"x\"}')",
            slug,
        )
        await sql.execute(
            "insert into servers (tenant, handle, status, provisioning_request) "
            "values ($1, 'web-1', 'provisioning', $2)",
            slug,
            UUID(REQUEST),
        )
        await sql.execute(
            "insert into actions (tenant, name, steps) values ($1, 'nightly', $2)",
            slug,
            json.dumps(HELLO["steps"]),
        )
        await sql.execute(
            "insert into step_templates (tenant, name, kind) values ($1, 'nightly', 'log')", slug
        )
        await sql.execute(
            "insert into checkpoints (tenant, key, value) values ($1, 'position', '1')", slug
        )
        await sql.execute(
            "insert into jobs (tenant, name, command) values ($1, 'export', 'true')", slug
        )
    await sql.execute(
        "insert into projects (tenant, id, name) values ($1, $2, 'shop')", OWN, UUID(PROJECT)
    )
    await sql.execute(
        "insert into incidents (tenant, id, kind, severity, title) "
        "values ($1, $2, 'clock_skew', 'warning', 'Late')",
        OWN,
        UUID(INCIDENT),
    )
    await sql.execute(
        "insert into dead_letters (tenant, id, definition_id, name, run_id, occurrence, "
        "trigger, first_at, last_at) "
        "values ($1, $2, $3, 'nightly', $3, now(), 'schedule', now(), now())",
        OWN,
        UUID(LETTER),
        UUID(RUN),
    )
    # No `watch` makes their deployments here, for which a run would wait.
    monkeypatch.setattr(control, "PATIENCE_SECONDS", 0.0)


@contextmanager
def _statements(engine: AsyncEngine) -> Iterator[list[str]]:
    """Yields the SQL that is sent meanwhile, as it comes."""
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        found.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


# -- the tables here, and that of the application


def test_the_least_role_of_every_route_is_written_down_here(routes: list[Any]) -> None:
    assert {str(route) for route in routes} == LEAST.keys()


def test_every_route_without_a_tenant_says_what_a_tenant_s_token_gets(routes: list[Any]) -> None:
    assert {str(route) for route in _without_tenant(routes)} == GLOBAL.keys()


def test_every_route_that_takes_a_body_has_one_here(api: Any) -> None:
    paths = api.contract.document["paths"]
    taking = {
        f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, operations in paths.items()
        for method, operation in operations.items()
        if "requestBody" in operation
    }
    assert taking == BODIES.keys()


# -- tenants


async def test_another_tenant_s_rows_are_not_there_and_nothing_tells_that_they_are(
    api: Any, routes: list[Any], engine: AsyncEngine, monkeypatch: Any, subtests: Any
) -> None:
    monkeypatch.setattr(access, "KNOWN_SECONDS", 3600.0)
    who = f"admin@{OWN}"
    assert (await api.get(f"/tenants/{OWN}", who)).status_code == 200  # the token is known now
    for route in _with_tenant(routes):
        with subtests.test(str(route)):
            with _statements(engine) as said:
                there = await _call(api, route, who, FOREIGN)
                missing = await _call(api, route, who, NOBODY)
            assert there.status_code == 404
            assert there.text == missing.text.replace(NOBODY, FOREIGN)
            assert there.headers == missing.headers
            # Equal time as well: the database is not asked whether there is such a tenant.
            assert said == []


async def test_a_role_that_may_not_learns_no_more_of_another_tenant(
    api: Any, routes: list[Any], subtests: Any
) -> None:
    for route in _with_tenant(routes):
        with subtests.test(str(route)):
            there = await _call(api, route, f"worker@{OWN}", FOREIGN)
            missing = await _call(api, route, f"worker@{OWN}", NOBODY)
            assert there.status_code in (403, 404)
            assert there.text == missing.text.replace(NOBODY, FOREIGN)


async def test_no_call_about_another_tenant_changes_anything(
    api: Any, routes: list[Any], sql: Any
) -> None:
    await api.token(f"admin@{OWN}")
    before = await sql.fetchval("select max(id) from audit")
    for route in _with_tenant(routes):
        await _call(api, route, f"admin@{OWN}", FOREIGN)
    assert await sql.fetchval("select max(id) from audit") == before


OF_ALL = {
    "DELETE /tenants/{tenant}",
    "POST /tenants/{tenant}/suspend",
    "POST /tenants/{tenant}/resume",
    "PUT /tenants/{tenant}/allowed-addresses",
}
"""What is done to a tenant, and not by it."""


async def test_a_tenant_s_own_token_reaches_its_rows_on_every_route(
    api: Any, routes: list[Any], subtests: Any
) -> None:
    deleting = [route for route in _with_tenant(routes) if route.method == "DELETE"]
    others = [
        route
        for route in _with_tenant(routes)
        if route not in deleting and "{run_id}" not in route.path  # it has not run yet
    ]
    for route in [*others, *deleting]:
        with subtests.test(str(route)):
            answer = await _call(api, route, f"admin@{OWN}")
            refused = str(route) in OF_ALL
            assert answer.status_code == 403 if refused else answer.status_code not in (403, 404)


async def test_a_document_that_names_another_tenant_is_refused(api: Any, sql: Any) -> None:
    document = {"tenant": FOREIGN, "definitions": [{"name": "new", **NIGHTLY}]}
    answer = await api.put(
        f"/tenants/{OWN}/definitions", f"editor@{OWN}", params={"prune": True}, json=document
    )
    assert answer.status_code == 422
    assert FOREIGN in answer.json()["detail"]
    assert await sql.fetchval("select count(*) from definitions where name = 'nightly'") == 2


async def test_routes_of_all_tenants_refuse_a_tenant_s_token_or_show_its_own_rows(
    api: Any, routes: list[Any], subtests: Any
) -> None:
    for route in _without_tenant(routes):
        with subtests.test(str(route)):
            answer = await _call(api, route, f"admin@{OWN}")
            expected = GLOBAL[str(route)]
            if expected == "refused":
                assert answer.status_code == 403
            elif expected == "own":
                assert answer.status_code == 200
                assert FOREIGN not in answer.text
            else:
                assert answer.text == (await _call(api, route, "admin")).text


async def test_the_list_of_tenants_is_of_the_token_s_own(api: Any) -> None:
    for who, expected in (("viewer", [OWN, FOREIGN]), (f"viewer@{OWN}", [OWN])):
        for query in ({}, {"limit": 10}, {"q": "a"}):
            page = (await api.get("/tenants", who, params=query)).json()
            assert [one["slug"] for one in page["items"]] == expected
            assert page["total"] in (None, len(expected))


async def test_the_figures_are_of_the_token_s_own_tenant(api: Any, sql: Any) -> None:
    await sql.execute("update tenants set suspended = true where slug = $1", FOREIGN)
    of_all = (await api.get("/stats", "viewer")).json()
    assert (of_all["tenants"], of_all["suspended"], of_all["definitions"]) == (2, 1, 4)
    assert of_all["jobs"]["total"] == 2
    assert of_all["waiting"] > 0
    own = (await api.get("/stats", f"viewer@{OWN}")).json()
    assert (own["tenants"], own["suspended"], own["definitions"]) == (1, 0, 2)
    assert own["jobs"]["total"] == 1
    assert own["waiting"] is None
    assert sum(own["states"].values()) == 2


@pytest.mark.parametrize("query", [{}, {"limit": 50}, {"tenant": FOREIGN}, {"kind": "tenant"}])
async def test_the_audit_is_of_the_token_s_own_tenant(api: Any, query: dict[str, Any]) -> None:
    await api.put(f"/tenants/{FOREIGN}", json={"title": "Secret"})
    found = (await api.get("/audit", f"viewer@{OWN}", params=query)).json()["items"]
    assert bool(found) == ("tenant" not in query)
    assert {one["tenant"] for one in found} <= {OWN}


async def test_a_tenant_s_audit_does_not_show_who_holds_tokens_of_all(api: Any) -> None:
    await api.token("editor")
    found = (await api.get("/audit", f"viewer@{OWN}", params={"kind": "token"})).json()["items"]
    assert [one["name"] for one in found] == [f"viewer@{OWN}"]


# -- roles


async def test_a_role_below_the_least_one_is_refused_and_the_least_one_is_not(
    api: Any, routes: list[Any], subtests: Any
) -> None:
    # What deletes comes last, for the others to find something.
    for route in sorted(routes, key=lambda one: (one.method == "DELETE", -len(one.path))):
        least = LEAST[str(route)]
        below = ROLES[: ROLES.index(least)] if least else ()
        with subtests.test(str(route)):
            for who in below:
                for suffix in ("", f"@{OWN}"):
                    answer = await _call(api, route, who + suffix)
                    assert answer.status_code == 403, who + suffix
            answer = await _call(api, route, least)
            assert answer.status_code not in (401, 403)


async def test_a_refusal_says_which_roles_may(api: Any) -> None:
    answer = await api.post("/tenants", "viewer", json={"slug": "initech"})
    assert answer.status_code == 403
    assert answer.json()["detail"] == (
        "A token of the role viewer may not do this; it takes admin."
    )


# -- tokens


@pytest.fixture(params=["none", "garbage", "unknown", "basic", "empty", "expired", "revoked"])
async def bad(request: pytest.FixtureRequest, engine: AsyncEngine) -> dict[str, str]:
    """Returns the header of somebody who holds no token that is good."""
    secret, row = await tokens.create(engine, "once", "admin")
    if request.param == "expired":
        past = datetime.now(UTC) - timedelta(seconds=1)
        secret, _ = await tokens.create(engine, "old", "admin", expires_at=past)
    if request.param == "revoked":
        assert await tokens.revoke(engine, row.id)
    said = {
        "garbage": "Bearer \xff\xfe, and more",
        "unknown": f"Bearer {tokens.PREFIX}{'x' * 43}",
        "basic": "Basic cm90YTpyb3Rh",
        "empty": "Bearer ",
        "expired": f"Bearer {secret}",
        "revoked": f"Bearer {secret}",
    }.get(request.param)
    return {} if said is None else {"Authorization": said.encode("latin-1")}  # type: ignore[dict-item]


async def test_every_route_asks_for_a_good_token(
    api: Any, routes: list[Any], bad: dict[str, str], monkeypatch: Any, subtests: Any
) -> None:
    monkeypatch.setattr(access, "FAILURES", 10_000)
    for route in routes:
        with subtests.test(str(route)):
            answers = [await _call(api, route, None, one, headers=bad) for one in (OWN, NOBODY)]
            if LEAST[str(route)] is None:
                assert 401 not in [one.status_code for one in answers]
                continue
            for answer in answers:
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert answer.headers["Content-Type"] == "application/problem+json"
            assert answers[0].text == answers[1].text.replace(NOBODY, OWN)


async def test_a_revoked_token_is_refused_at_last_when_it_would_be_looked_up_again(
    api: Any, engine: AsyncEngine, monkeypatch: Any
) -> None:
    secret, row = await tokens.create(engine, "once", "viewer")
    headers = {"Authorization": f"Bearer {secret}"}
    assert (await api.get("/tenants", None, headers=headers)).status_code == 200
    await tokens.revoke(engine, row.id)
    monkeypatch.setattr(access, "KNOWN_SECONDS", 0.0)
    assert (await api.get("/tenants", None, headers=headers)).status_code == 401


async def test_a_token_dies_with_its_tenant(api: Any, sql: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(access, "KNOWN_SECONDS", 0.0)
    assert (await api.get("/tenants", f"viewer@{OWN}")).status_code == 200
    await sql.execute("delete from tenants where slug = $1", OWN)
    assert (await api.get("/tenants", f"viewer@{OWN}")).status_code == 401


# -- guessing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Gives what lets time go by, for whoever counts bad tokens."""
    now = 1000.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(access, "time", Clock)
    return pass_by


async def _guess(api: Any, times: int) -> list[int]:
    found = []
    for number in range(times):
        guess = f"Bearer {tokens.PREFIX}{number:043}"
        answer = await api.get("/duties", None, headers={"Authorization": guess})
        found.append(answer.status_code)
    return found


async def test_whoever_tries_too_many_tokens_has_to_wait(
    api: Any, engine: AsyncEngine, clock: Callable[[float], None]
) -> None:
    assert await _guess(api, access.FAILURES + 2) == [401] * access.FAILURES + [429] * 2
    guess = {"Authorization": f"Bearer {tokens.PREFIX}{'x' * 43}"}
    answer = await api.get("/duties", None, headers=guess)
    assert answer.headers["Retry-After"] == str(int(access.WINDOW_SECONDS) + 1)
    assert re.fullmatch(
        r"Too many bad tokens from this address; wait \d+ s.", answer.json()["detail"]
    )
    # Who holds a good one is let in, also one that was not seen before.
    secret, _ = await tokens.create(engine, "late", "viewer")
    headers = {"Authorization": f"Bearer {secret}"}
    assert (await api.get("/tenants", None, headers=headers)).status_code == 200
    clock(float(answer.headers["Retry-After"]))
    assert await _guess(api, 1) == [401]


async def test_a_known_holder_behind_the_same_address_is_not_locked_out(
    api: Any, clock: Callable[[float], None]
) -> None:
    assert (await api.get("/duties", "worker")).status_code == 200
    assert (await _guess(api, access.FAILURES + 1))[-1] == 429
    for _ in range(3):
        assert (await api.get("/duties", "worker")).status_code == 200
        clock(access.KNOWN_SECONDS * 2)  # it is looked up anew each time


async def test_who_calls_from_elsewhere_is_not_made_to_wait(build: Any) -> None:
    api = await build()
    await _guess(api, access.FAILURES + 1)
    elsewhere = await build(client=("192.0.2.7", 99))
    elsewhere.app.state.rota.guard = api.app.state.rota.guard
    assert await _guess(elsewhere, 1) == [401]


async def test_a_call_without_any_token_does_not_count_as_a_guess(api: Any) -> None:
    for _ in range(access.FAILURES + 1):
        assert (await api.get("/duties", None)).status_code == 401
    assert await _guess(api, 1) == [401]
