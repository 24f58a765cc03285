"""`/tenants/{tenant}/step-templates`: steps that others are made from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents
from api.access import Editor, Reader, TenantSlug
from api.actions import ID
from api.named import Collection, Match, NamePath, NoneMatch, Sought
from api.paging import Page, Paging
from api.problems import declared
from deployments.actions import Faulty, names_template, read, runnable
from deployments.owned_blocks import in_step
from deployments.step_entry import NewTemplate, TemplateBody
from deployments.step_inputs import faults
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
    return await _TEMPLATES.listed(request, tenant, paging, q)


@router.post("", response_model=StepTemplate, status_code=201, responses=declared(404, 409))
async def create_step_template(
    request: Request, tenant: TenantSlug, caller: Editor, body: NewTemplate
) -> Response:
    """Create a step template."""
    return await _TEMPLATES.create(request, tenant, caller, body.name, body)


@router.get("/{name}", response_model=StepTemplate, responses=declared(404))
async def get_step_template(
    request: Request, tenant: TenantSlug, caller: Reader, name: NamePath
) -> Response:
    """Read one step template; its ETag is for If-Match."""
    return await _TEMPLATES.one(request, tenant, name)


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
    matches = (if_match, if_none_match)
    return await _TEMPLATES.put(request, tenant, caller, name, body, matches)


@router.delete("/{name}", status_code=204, responses=declared(404, 409, 412))
async def delete_step_template(
    request: Request, tenant: TenantSlug, caller: Editor, name: NamePath, if_match: Match = None
) -> Response:
    """Delete a step template, unless a step of an action is made from it: that is a 409."""
    return await _TEMPLATES.delete(request, tenant, caller, name, if_match)


async def _values(locked: Locked[Row], name: str, body: TemplateBody) -> Mapping[str, Any]:
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
    return body.values


async def _users(locked: Locked[Row], name: str) -> str | None:
    users = [one.name for one in await locked.actions() if names_template(one.steps, name)]
    if not users:
        return None
    return (
        f"Steps of the actions {', '.join(users):.700} are made from {name}; change or delete them "
        "first."
    )


_TEMPLATES = Collection(Row, StepTemplate, _values, _users)
