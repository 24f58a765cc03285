"""The application: its routes, and what holds for all of them."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from sqlalchemy.ext.asyncio import AsyncEngine

from api import (
    action_runs,
    actions,
    allowed_addresses,
    audits,
    bulk,
    checkpoints,
    checks,
    config,
    control,
    definitions,
    health,
    incidents,
    jobs,
    letters,
    notices,
    operations,
    previews,
    problems,
    project_documents,
    projects,
    provisioning,
    retention,
    runs,
    search,
    servers,
    step_templates,
    tenants,
)
from api.access import Gate
from api.limits import Limits
from api.state import Embed, State
from deployments.gateway import Gateway
from store.settings import Settings

BASE = "/api/v1"
OPENAPI = "/openapi.json"

DESCRIPTION = """\
Periodic duties, defined in a database, run by Prefect.

Errors are `application/problem+json` (RFC 9457), with the field named. Instants are ISO 8601 with
their offset from UTC. What is written here is carried out by `rota watch`, as soon as Prefect is
there. Lists come in numbered pages (`page`, `page_size`), or from a row on (`limit`, `after`,
`before`), which stays right while rows come and go.
"""

RECORDS = (projects, project_documents, search, checkpoints, retention)
FLEET = (servers, checks, provisioning, incidents, notices)
WORK = (jobs, config)
ACTIONS = (actions, step_templates, action_runs, allowed_addresses)
ROUTERS = (
    tenants,
    bulk,
    definitions,
    control,
    previews,
    runs,
    letters,
    operations,
    audits,
    *RECORDS,
    *FLEET,
    *WORK,
    *ACTIONS,
)


async def make(
    settings: Settings, engine: AsyncEngine, gateway: Gateway, embed: Embed | None = None
) -> FastAPI:
    """Return the application.

    Args:
        settings: What the operator has set.
        engine: The definitions database, whose tables are of this version.
        gateway: Prefect, which may be away.
        embed: What makes vectors of searches; None where search goes by word alone.
    """
    app = routed(settings)
    app.state.rota = await State.of(settings, engine, gateway, embed)
    return app


def routed(settings: Settings) -> FastAPI:
    """Return the application without its state, which it needs before the first request."""
    app = FastAPI(
        title="Rota",
        version=metadata.version("rota"),
        description=DESCRIPTION,
        openapi_url=f"{BASE}{OPENAPI}",
        docs_url=None,  # it would load its page from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    for one in ROUTERS:
        app.include_router(one.router, prefix=BASE)
    app.include_router(health.router, prefix=BASE)
    app.include_router(health.router, include_in_schema=False)  # where probes look
    problems.install(app)
    free = frozenset(f"{BASE}{path}" for path in ("/healthz", "/readyz", "/version", OPENAPI))
    app.add_middleware(Gate, base=f"{BASE}/", free=free)
    app.add_middleware(
        Limits,
        body_bytes=settings.api_body_bytes,
        seconds=settings.api_seconds,
        patient=frozenset({f"{BASE}/apply"}),
    )
    if settings.api_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.api_origins,
            allow_methods=["*"],
            allow_headers=[
                *("Authorization", "Content-Type"),
                *("If-Match", "If-None-Match", "Idempotency-Key"),
            ],
            expose_headers=["ETag", "Location", "Retry-After"],
        )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = found["components"]["schemas"]
        problem = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= problem.pop("$defs") | {"Problem": problem}
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = found
    return app.openapi_schema
