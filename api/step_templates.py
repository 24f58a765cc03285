"""`/tenants/{tenant}/step-templates`: steps that others are made from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents, lists
from api.access import Editor, Reader, TenantSlug
from api.actions import ID
from api.named import (
    Match,
    NamePath,
    NoneMatch,
    Sought,
    check_match,
    check_new,
    checked,
    etag,
    found,
    missing,
    sought,
)
from api.paging import Page, Paging
from api.problems import Refused, declared
from api.state import state_of
from deployments.actions import Faulty, names_template, read, runnable
from deployments.owned_blocks import in_step
from deployments.step_entry import NewTemplate, TemplateBody
from deployments.step_inputs import faults
from store import actions
from store.actions import Locked
from store.steps import StepTemplate as Row

router = APIRouter(prefix="/tenants/{tenant}/step-templates", tags=["actions"])


class StepTemplate(BaseModel):
    """A step that others are made from."""

    id: UUID = Field(description="Its id", examples=[ID])
    name: str = Field(description="How steps name it", examples=["orders"])
    description: str | None = Field(description="For people", examples=["Asks for the orders."])
    kind: str = Field(description="What it does", examples=["http"])
    input: dict[str, Any] = Field(
        description="What the kind takes", examples=[{"url": "https://example.com/orders"}]
    )
    timeout_seconds: float | None = Field(description="A time limit", examples=[60])
    retries: int | None = Field(description="How often it is tried again", examples=[2])
    retry_delay_seconds: int | None = Field(description="After how long", examples=[10])
    revision: int = Field(description="Counts the changes, from 1; part of its ETag", examples=[3])
    created_at: datetime = Field(description="When it was created", examples=[documents.INSTANT])
    updated_at: datetime = Field(
        description="When it was last changed", examples=[documents.INSTANT]
    )


class StepTemplates(Page):
    """A part of a tenant's step templates."""

    items: list[StepTemplate] = Field(description="The templates, by name")


@router.get("", response_model=StepTemplates, responses=declared(404))
async def list_step_templates(
    request: Request, tenant: TenantSlug, caller: Reader, paging: Paging, q: Sought = None
) -> Response:
    """List the step templates of a tenant."""
    rows = actions.rows(Row, tenant, sought(q))
    return await lists.answer(request, tenant, paging, rows, (Row.name,), _document)


@router.post("", response_model=StepTemplate, status_code=201, responses=declared(404, 409))
async def create_step_template(
    request: Request, tenant: TenantSlug, caller: Editor, body: NewTemplate
) -> Response:
    """Create a step template."""
    engine = state_of(request).engine
    with checked(tenant):
        async with actions.locked(engine, Row, tenant, body.name, caller.name) as locked:
            if locked.row is not None:
                said = f"There is a step template {body.name!r} already; PUT replaces it."
                raise Refused(409, said, [("name", "it is taken")])
            row = await _put(locked, body.name, body)
    return _shown(row, 201, {"Location": f"{request.url.path}/{row.name}"})


@router.get("/{name}", response_model=StepTemplate, responses=declared(404))
async def get_step_template(
    request: Request, tenant: TenantSlug, caller: Reader, name: NamePath
) -> Response:
    """Read one step template; its ETag is for If-Match."""
    return _shown(await found(request, Row, tenant, name))


@router.put(
    "/{name}",
    response_model=StepTemplate,
    responses={
        201: {"description": "It has been created", "model": StepTemplate},
        **declared(404, 412),
    },
)
async def put_step_template(
    request: Request,
    tenant: TenantSlug,
    caller: Editor,
    name: NamePath,
    body: TemplateBody,
    if_match: Match = None,
    if_none_match: NoneMatch = None,
) -> Response:
    """Create a step template, or replace all that it says.

    The actions with steps made from it have to stay such as can be run.
    """
    check_new(name)
    with checked(tenant):
        async with actions.locked(
            state_of(request).engine, Row, tenant, name, caller.name
        ) as locked:
            check_match(locked.row, if_match, if_none_match)
            status = 201 if locked.row is None else 200
            row = await _put(locked, name, body)
    return _shown(row, status)


@router.delete("/{name}", status_code=204, responses=declared(404, 409, 412))
async def delete_step_template(
    request: Request, tenant: TenantSlug, caller: Editor, name: NamePath, if_match: Match = None
) -> Response:
    """Delete a step template, unless a step of an action is made from it: that is a 409."""
    if "\0" in name:
        raise missing(Row, name)
    with checked(tenant):
        async with actions.locked(
            state_of(request).engine, Row, tenant, name, caller.name
        ) as locked:
            check_match(locked.row, if_match)
            if locked.row is None:
                raise missing(Row, name)
            users = [one.name for one in await locked.actions() if names_template(one.steps, name)]
            if users:
                raise Refused(
                    409,
                    f"Steps of the actions {', '.join(users):.700} are made from {name}; change "
                    "or delete them first.",
                )
            await locked.delete()
    return Response(status_code=204)


async def _put(locked: Locked[Row], name: str, body: TemplateBody) -> Row:
    found = [*faults(body.kind, body.input, part=True)]
    found += in_step(locked.tenant, body.kind, body.input)
    if found:
        raise Faulty(found)
    known = {**await locked.templates(), name: body.values}
    for one in await locked.actions():
        if locked.row is not None and names_template(one.steps, name):
            try:
                runnable(locked.tenant, read(one.steps).steps, known)
            except Faulty as error:
                said = f"the action {one.name} could not be run any more: {error}"
                raise Faulty([f"input: {said}"]) from None
    return await locked.put(name, body.values)


def _shown(row: Row, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return documents.answer(_document(row), status, {"ETag": etag(row), **(headers or {})})


def _document(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in StepTemplate.model_fields}
