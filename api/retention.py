"""`/tenants/{tenant}/retention`: what the cleaner has to keep, and what it may have forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import NoResultFound

from api import documents, lists
from api.access import Anybody, Recorder, TenantSlug, no_tenant
from api.paging import Page, Paging
from api.problems import declared
from api.state import state_of
from deployments.entry import Strict
from store import retention
from store.models import Definition

router = APIRouter(prefix="/tenants/{tenant}/retention", tags=["records"])


class Kept(BaseModel):
    """What is kept of the runs of a definition."""

    id: UUID = Field(
        description="The definition's id", examples=["0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"]
    )
    deployment_id: UUID | None = Field(
        description="Prefect's id of its deployment; null while there is none",
        examples=["3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60"],
    )
    keep_runs: int = Field(description="How many of its runs are kept, at least", examples=[10])
    run_count: int = Field(description="How many have ended, ever", examples=[412])


class Retention(Page):
    """What is kept of a part of a tenant's definitions."""

    items: list[Kept] = Field(description="One for each definition, by id")


class Forget(Strict):
    """What may be forgotten."""

    days: float = Field(ge=1, le=36_500, description="Older than so many days", examples=[30])


class Forgotten(BaseModel):
    """How many records are gone."""

    dead_letters: int = Field(description="Replayed or discarded ones", examples=[3])
    notices: int = Field(description="Those that were handed out, or never were", examples=[12])
    incidents: int = Field(description="Resolved ones", examples=[4])
    server_changes: int = Field(
        description="Changes of servers, but for the last of each that there is", examples=[31]
    )
    jobs: int = Field(description="Those that have ended", examples=[120])
    action_runs: int = Field(description="Runs of actions, with their steps", examples=[60])
    more: bool = Field(description="Whether another call may find more", examples=[False])


@router.get("", response_model=Retention, responses=declared(404))
async def list_retention(
    request: Request, tenant: TenantSlug, caller: Anybody, paging: Paging
) -> Response:
    """Tell how many runs of each definition are kept, by id: a page misses none that is renamed."""
    rows = retention.rows(tenant)
    return await lists.answer(request, tenant, paging, rows, (Definition.id,), _shown)


@router.post("/forget", response_model=Forgotten, responses=declared(404))
async def forget_records(
    request: Request, tenant: TenantSlug, caller: Recorder, body: Forget
) -> Response:
    """Delete records that are done with since so many days, at most 5,000 of each kind."""
    before = datetime.now(UTC) - timedelta(days=body.days)
    try:
        gone = await retention.forget(state_of(request).engine, tenant, before)
    except NoResultFound:
        raise no_tenant(tenant) from None
    more = any(count >= retention.AT_ONCE for count in gone.values())
    return documents.answer({**gone, "more": more})


def _shown(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Kept.model_fields}
