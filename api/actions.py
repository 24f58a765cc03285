"""`/tenants/{tenant}/actions`: graphs of steps, which the duty `run_action` runs."""

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
from api.named import Collection, Match, NamePath, NoneMatch, Sought
from api.paging import Page, Paging
from api.problems import declared
from deployments.actions import runnable
from deployments.step_entry import ActionBody, NewAction
from store.actions import Locked
from store.steps import Action as Row

router = APIRouter(prefix="/tenants/{tenant}/actions", tags=["actions"])

ID = "0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"


class Action(BaseModel):
    """A graph of steps."""

    id: UUID = Field(description="Its id", examples=[ID])
    name: str = Field(description="How it is addressed", examples=["large-orders"])
    title: str | None = Field(description="For people", examples=["Large orders"])
    description: str | None = Field(description="For people", examples=["Tells of large orders."])
    steps: list[dict[str, Any]] = Field(
        description="The steps, as they were written",
        examples=[[{"name": "hello", "kind": "log", "input": {"text": "Hello"}}]],
    )
    revision: int = Field(description="Counts the changes, from 1; part of its ETag", examples=[3])
    created_at: datetime = Field(description="When it was created", examples=[documents.INSTANT])
    updated_at: datetime = Field(
        description="When it was last changed", examples=[documents.INSTANT]
    )


class Actions(Page):
    """A part of a tenant's actions."""

    items: list[Action] = Field(description="The actions, by name")


@router.get("", response_model=Actions, responses=declared(404))
async def list_actions(
    request: Request, tenant: TenantSlug, caller: Reader, paging: Paging, q: Sought = None
) -> Response:
    """List the actions of a tenant."""
    return await _ACTIONS.listed(request, tenant, paging, q)


@router.post("", response_model=Action, status_code=201, responses=declared(404, 409))
async def create_action(
    request: Request, tenant: TenantSlug, caller: Editor, body: NewAction
) -> Response:
    """Create an action, if its steps can be run."""
    return await _ACTIONS.create(request, tenant, caller, body.name, body)


@router.get("/{name}", response_model=Action, responses=declared(404))
async def get_action(
    request: Request, tenant: TenantSlug, caller: Reader, name: NamePath
) -> Response:
    """Read one action; its ETag is for If-Match."""
    return await _ACTIONS.one(request, tenant, name)


@router.put(
    "/{name}",
    response_model=Action,
    responses={201: {"description": "It has been created", "model": Action}, **declared(404, 412)},
)
async def put_action(
    request: Request,
    tenant: TenantSlug,
    caller: Editor,
    name: NamePath,
    body: ActionBody,
    if_match: Match = None,
    if_none_match: NoneMatch = None,
) -> Response:
    """Create an action, or replace all that it says, if its steps can be run.

    A run that has failed and is run again goes on with the action as it is then.
    """
    matches = (if_match, if_none_match)
    return await _ACTIONS.put(request, tenant, caller, name, body, matches)


@router.delete("/{name}", status_code=204, responses=declared(404, 409, 412))
async def delete_action(
    request: Request, tenant: TenantSlug, caller: Editor, name: NamePath, if_match: Match = None
) -> Response:
    """Delete an action, unless a definition runs it: that is a 409. What its runs did is kept."""
    return await _ACTIONS.delete(request, tenant, caller, name, if_match)


async def _values(locked: Locked[Row], name: str, body: ActionBody) -> Mapping[str, Any]:
    runnable(locked.tenant, body.steps, await locked.templates())
    return body.values


async def _users(locked: Locked[Row], name: str) -> str | None:
    users = await locked.definitions(name)
    if not users:
        return None
    return (
        f"The action {name} is run by the definitions {', '.join(users):.700}; delete them first, "
        "or let them run another."
    )


_ACTIONS = Collection(Row, Action, _values, _users)
