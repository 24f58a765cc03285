"""`/tenants/{tenant}/definitions/{name}/...`: pausing a definition, and running it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Body, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents
from api.access import Editor, TenantSlug
from api.definitions import Name, find, shown
from api.problems import Refused, declared, unfit
from api.state import State, state_of
from deployments import runs
from deployments.desired import build_for, next_run, want
from deployments.entry import Instant, Parameters, Strict, Text
from deployments.gateway import PrefectRefused
from deployments.history import message
from deployments.inputs import declared as declared_inputs
from deployments.inputs import filled
from deployments.schedule import InvalidSchedule
from store import pause as pausing
from store.models import Definition

router = APIRouter(prefix="/tenants/{tenant}/definitions/{name}", tags=["definitions"])

REQUEST = "rota.request"
"""The label of a run that says what was asked for, as a hash."""

PATIENCE_SECONDS = 5.0
"""For how long the deployment of a definition that was written a moment ago is waited for."""


class Pause(Strict):
    """For how long a definition pauses, and why."""

    note: Text | None = Field(
        None, max_length=1024, description="Why, for people", examples=["The provider is down."]
    )
    until: Instant | None = Field(
        None,
        description="When it goes on by itself; null: when it is resumed",
        examples=[documents.INSTANT],
    )


class RunBody(Strict):
    """A run that is asked for."""

    parameters: Parameters = Field(
        {},
        description="They count more than the definition's own",
        examples=[{"workflow_id": "sync"}],
    )
    inputs: dict[Text, Text | None] = Field(
        {},
        description="Values of the inputs that the definition declares, at most 4096 bytes each",
        examples=[{"branch": "main"}],
    )
    at: Instant | None = Field(
        None, description="When it is due; null: now", examples=[documents.INSTANT]
    )


class Asked(BaseModel):
    """A run that has been made, and will start when it is due."""

    id: UUID = Field(
        description="Prefect's id of the run", examples=["3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60"]
    )
    name: str = Field(description="Prefect's name of it", examples=["amber-otter"])
    definition: str = Field(description="Its definition", examples=["acme/nightly-sync"])
    due: datetime = Field(description="When it is due", examples=[documents.INSTANT])
    state: str = Field(description="Its state, as Prefect names it", examples=["Scheduled"])


_PAUSE, _RUN = Pause(), RunBody()  # what an empty body asks for


@router.post("/pause", response_model=documents.Definition, responses=declared(404))
async def pause_definition(
    request: Request,
    tenant: TenantSlug,
    caller: Editor,
    name: Name,
    body: Annotated[Pause, Body()] = _PAUSE,
) -> Response:
    """Let no run of a definition start by its schedule, until an instant or until it is resumed."""
    state = state_of(request)
    row, _ = await find(state, tenant, name)
    if body.until is not None and body.until <= datetime.now(UTC):
        raise unfit(f"until: {body.until.isoformat()} has passed; give an instant ahead")
    await pausing.pause(state.engine, row.id, body.until, body.note, caller.name)
    return shown(*await find(state, tenant, name))


@router.post("/resume", response_model=documents.Definition, responses=declared(404, 409))
async def resume_definition(
    request: Request, tenant: TenantSlug, caller: Editor, name: Name
) -> Response:
    """Let a definition run again by its schedule, whatever paused it."""
    state = state_of(request)
    row, owner = await find(state, tenant, name)
    if owner.suspended:
        raise _suspended(tenant)
    _check_that_it_comes(row)
    await pausing.resume(state.engine, row.id, caller.name)
    return shown(*await find(state, tenant, name))


@router.post("/run", response_model=Asked, status_code=202, responses=declared(404, 409))
async def run_definition(
    request: Request,
    tenant: TenantSlug,
    caller: Editor,
    name: Name,
    body: Annotated[RunBody, Body()] = _RUN,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="Makes a second call with the same key answer with the first one's run",
            examples=["4a1f"],
        ),
    ] = None,
) -> Response:
    """Make a run beside the schedule. A paused definition runs all the same."""
    state = state_of(request)
    row, owner = await find(state, tenant, name)
    if owner.suspended:
        raise _suspended(tenant)
    given = _parameters(state, row, body)
    if row.problem:
        raise Refused(409, f"The definition {row.reference} has a problem: {row.problem}")
    deployment = await _deployment(state, row)
    key = idempotency_key and _key(row, idempotency_key)
    said = orjson.dumps(body.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
    asked_for = hashlib.sha256(said).hexdigest()
    try:
        made = await runs.start(
            state.gateway, deployment, given, key, body.at, caller.name, {REQUEST: asked_for}
        )
    except runs.CannotRun as refused:
        raise unfit(f"parameters: {refused}") from None
    # What was asked for, not what came of it: the definition may have changed since.
    if key and (made.get("labels") or {}).get(REQUEST) != asked_for:
        raise Refused(
            422,
            "The Idempotency-Key was used for another run of this definition; give another key.",
            [("Idempotency-Key", "it was used for another run of this definition")],
        )
    asked = {
        "id": made["id"],
        "name": made["name"],
        "definition": row.reference,
        "due": made["expected_start_time"],
        "state": made["state_name"] or message(made),
    }
    location = f"{request.url.path.removesuffix('/run')}/runs/{made['id']}"
    return documents.answer(asked, 202, {"Location": location})


def _parameters(state: State, row: Definition, body: RunBody) -> Mapping[str, Any]:
    """Return what is handed to the run.

    Raises:
        deployments.inputs.InvalidInput: An input does not fit.
        deployments.desired.Problem: The parameters do not.
    """
    inputs = declared_inputs(row.inputs)
    # All of the definition's: its deployment may not have those yet that were written just now.
    given = {**row.parameters, **body.parameters}
    if inputs or body.inputs:
        given = filled(inputs, given, body.inputs)
    if given:
        # As of its creation: what is asked for is a run, whatever the schedule says by now.
        judged = Definition(
            id=row.id,
            tenant=row.tenant,
            name=row.name,
            duty=row.duty,
            parameters=given,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )
        want(judged, state.rules, row.created_at)
    return given


async def _deployment(state: State, row: Definition) -> Mapping[str, Any]:
    """Return the deployment of a definition, once it is there.

    Raises:
        Refused: 409, it is not made; 503, Prefect is away.
    """
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while row.deployment_id is None:
        if asyncio.get_running_loop().time() > deadline:
            raise Refused(
                409,
                f"The definition {row.reference} has no deployment yet; `rota watch` makes it. Is "
                "it running?",
            )
        await asyncio.sleep(0.2)
        row, _ = await find(state, row.tenant, row.name)
    try:
        return await state.gateway.deployment(str(row.deployment_id))
    except PrefectRefused as refused:
        if refused.status != 404:
            raise
        raise Refused(
            409,
            f"Prefect has no deployment of {row.reference} any more; `rota watch` makes it anew.",
        ) from None


def _check_that_it_comes(row: Definition) -> None:
    again = Definition(
        **{
            name: getattr(row, name)
            for name in (
                "id tenant name duty cron interval_seconds anchor_at run_at after_seconds timezone "
                "day_and starts_at ends_at created_at updated_at"
            ).split()
        },
        after_at=datetime.now(UTC),
    )
    try:
        schedule = build_for(again)
    except InvalidSchedule as invalid:
        why = f"It cannot be resumed: {invalid}."
        raise Refused(409, why, [(invalid.field, str(invalid))]) from None
    if schedule is not None and next_run(again, schedule, (), datetime.now(UTC)) is None:
        raise Refused(
            409,
            "It cannot be resumed: it has no next date; change its schedule first.",
        )


def _suspended(tenant: str) -> Refused:
    return Refused(409, f"The tenant {tenant} is suspended; nothing of it starts.")


def _key(row: Definition, key: str) -> str:
    # Prefect keeps keys by flow, which definitions of all tenants share.
    return f"rota-run:{row.id}:{hashlib.sha256(key.encode()).hexdigest()}"
