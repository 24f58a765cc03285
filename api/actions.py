"""`/tenants/{tenant}/actions`: graphs of steps, which the duty `run_action` runs."""

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
from deployments.actions import runnable
from deployments.step_entry import ActionBody, NewAction
from store import actions
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
    rows = actions.rows(Row, tenant, sought(q))
    return await lists.answer(request, tenant, paging, rows, (Row.name,), _document)


@router.post("", response_model=Action, status_code=201, responses=declared(404, 409))
async def create_action(
    request: Request, tenant: TenantSlug, caller: Editor, body: NewAction
) -> Response:
    """Create an action, if its steps can be run."""
    engine = state_of(request).engine
    with checked(tenant):
        async with actions.locked(engine, Row, tenant, body.name, caller.name) as locked:
            if locked.row is not None:
                said = f"There is an action {body.name!r} already; PUT replaces it."
                raise Refused(409, said, [("name", "it is taken")])
            row = await _put(locked, body.name, body)
    return _shown(row, 201, {"Location": f"{request.url.path}/{row.name}"})


@router.get("/{name}", response_model=Action, responses=declared(404))
async def get_action(
    request: Request, tenant: TenantSlug, caller: Reader, name: NamePath
) -> Response:
    """Read one action; its ETag is for If-Match."""
    return _shown(await found(request, Row, tenant, name))


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
async def delete_action(
    request: Request, tenant: TenantSlug, caller: Editor, name: NamePath, if_match: Match = None
) -> Response:
    """Delete an action, unless a definition runs it: that is a 409. What its runs did is kept."""
    if "\0" in name:
        raise missing(Row, name)
    with checked(tenant):
        async with actions.locked(
            state_of(request).engine, Row, tenant, name, caller.name
        ) as locked:
            check_match(locked.row, if_match)
            if locked.row is None:
                raise missing(Row, name)
            if users := await locked.definitions(name):
                raise Refused(
                    409,
                    f"The action {name} is run by the definitions {', '.join(users):.700}; delete "
                    "them first, or let them run another.",
                )
            await locked.delete()
    return Response(status_code=204)


async def _put(locked: Locked[Row], name: str, body: ActionBody) -> Row:
    runnable(locked.tenant, body.steps, await locked.templates())
    return await locked.put(name, body.values)


def _shown(row: Row, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return documents.answer(_document(row), status, {"ETag": etag(row), **(headers or {})})


def _document(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Action.model_fields}
