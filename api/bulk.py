"""`PUT /tenants/{tenant}/definitions`: all definitions of a tenant at once."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import NoResultFound

from api import documents
from api.access import Editor, TenantSlug, check_power, no_tenant
from api.problems import Refused, declared, unfit
from api.state import state_of
from deployments import roster_file
from deployments.roster_file import BadRoster, Parsed, Roster
from store import loading, roster, tenants

router = APIRouter(prefix="/tenants/{tenant}/definitions", tags=["definitions"])

MOST = 10_000
"""Definitions in one call."""

JSON, YAML = "application/json", "application/yaml"


class Written(BaseModel):
    """What became of each definition, or would, by its name."""

    created: list[str] = Field(description="Names that were not there", examples=[["nightly"]])
    updated: list[str] = Field(description="Names whose definition differed", examples=[["hourly"]])
    unchanged: list[str] = Field(description="Names that were so already", examples=[["daily"]])
    deleted: list[str] = Field(description="Names that were not named", examples=[["old"]])


_DOCUMENT = {
    "type": "object",
    "required": ["definitions"],
    "properties": {
        "definitions": {
            "type": "array",
            "description": "All that is to be there",
            "items": {"$ref": "#/components/schemas/Entry"},
        }
    },
}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {"schema": _DOCUMENT},
        YAML: {
            "schema": {
                "type": "string",
                "description": "The same in YAML, or documents of Semaphore's kind Schedule",
                "examples": ["definitions:\n- name: nightly\n  duty: workflow_run\n"],
            }
        },
    },
}


@router.put(
    "",
    response_model=Written,
    responses=declared(404, 409, 415),
    openapi_extra={"requestBody": _BODY},
)
async def put_definitions(
    request: Request,
    tenant: TenantSlug,
    caller: Editor,
    prune: Annotated[
        bool, Query(description="Also delete what the body does not name", examples=[True])
    ] = False,
    dry_run: Annotated[
        bool, Query(description="Write nothing, and answer what would be done", examples=[True])
    ] = False,
) -> Response:
    """Write definitions, all of them or none.

    What is pruned goes first, so that its name can be used again at once. One that does not fit,
    and nothing changes.
    """
    state = state_of(request)
    body = await request.body()
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    # Off the loop: a thousand definitions take a moment to judge.
    wanted = await run_in_threadpool(_read, body, kind, tenant)
    owner = await tenants.find(state.engine, tenant)
    if owner is None:
        raise no_tenant(tenant)
    if wanted.title not in (None, owner.tenant.title):
        raise unfit(f"title: PUT /tenants/{tenant} gives a tenant another; leave it out here")
    found = await roster.read(state.engine, [], [tenant])
    existing = {one.reference: one for one in found.definitions}
    for name, entry in wanted.entries.items():
        row = existing.get(f"{tenant}/{name}")
        check_power(
            caller, row.job_variables if row else {}, entry.job_variables, entry.duty, f"{name}."
        )
    errors = await run_in_threadpool(
        roster_file.check, [wanted], state.rules, datetime.now(UTC), existing
    )
    if errors:
        raise unfit(*_without_tenant(tenant, errors))
    rows = replace(wanted.rows, make=False)
    try:
        written = await loading.load(
            state.engine, [rows], prune=prune, dry_run=dry_run, who=caller.name
        )
    except NoResultFound:  # it was deleted meanwhile
        raise no_tenant(tenant) from None
    return documents.answer(
        {
            what: [reference.partition("/")[2] for reference in getattr(written, what)]
            for what in Written.model_fields
        }
    )


def _read(body: bytes, kind: str, tenant: str) -> Roster:
    if kind == JSON:
        parsed = _read_json(body, tenant)
    elif kind in (YAML, "application/x-yaml", "text/yaml"):
        try:
            parsed = roster_file.parse(body, tenant)
        except BadRoster as bad:
            raise unfit(*bad.errors) from None
    else:
        raise Refused(415, f"{kind!r} is not taken here; send {JSON} or {YAML}.")
    if parsed.errors:
        raise unfit(*_without_tenant(tenant, parsed.errors))
    return parsed.rosters.get(tenant) or Roster(tenant)


def _read_json(body: bytes, tenant: str) -> Parsed:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise unfit(f"the body is no JSON: {error}") from None
    named = document.get("definitions") if isinstance(document, dict) else None
    if isinstance(named, list) and len(named) > MOST:
        raise unfit(f"definitions: there are {len(named)}; send at most {MOST} at once")
    return roster_file.parse_documents([document], tenant)


def _without_tenant(tenant: str, errors: list[str]) -> list[str]:
    """Return lines whose fields are as the body has them: `nightly.cron: ...`."""
    return [
        line.removeprefix(f"{tenant}/").replace(": ", ".", 1)
        if line.startswith(f"{tenant}/")
        else re.sub(rf"^{tenant}, no\. (\d+): ", _at, line)
        .removeprefix("document 1: ")
        .removeprefix(f"{tenant}: ")
        for line in errors
    ]


def _at(number: re.Match[str]) -> str:
    return f"definitions.{int(number[1]) - 1}: "
