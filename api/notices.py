"""`POST /tenants/{tenant}/notices/claim`: what people are still to be told."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents
from api.access import Recorder, TenantSlug, no_tenant
from api.problems import declared
from api.state import state_of
from deployments.entry import Strict
from store import notices

router = APIRouter(prefix="/tenants/{tenant}/notices", tags=["records"])


class NoticesClaim(Strict):
    """How much is to be told."""

    limit: int = Field(100, ge=1, le=1000, description="The most notices", examples=[100])
    addressed: bool = Field(
        False,
        description="Whether only those that say themselves where they go",
        examples=[True],
    )


class Notice(BaseModel):
    """Something that people are to be told."""

    id: int = Field(description="Its number; later ones are greater", examples=[812])
    kind: str = Field(
        description="What has happened: incident_opened, incident_closed, server_new, "
        "server_missing, server_returned, server_demoted, project_missing, project_archived, "
        "definition_failure, definition_recovery, definition_success",
        examples=["incident_opened"],
    )
    severity: Literal["info", "warning", "critical"] = Field(
        description="How bad it is", examples=["critical"]
    )
    subject: str = Field(
        description="The same in a line", examples=["web-1: cannot be reached: timeout"]
    )
    text: str = Field(
        description="More of it, for people",
        examples=["Incident server_unreachable of web-1, seen at 2026-03-01 07:00:00 UTC."],
    )
    at: datetime = Field(description="When it was written", examples=[documents.INSTANT])
    blocks: list[str] | None = Field(
        description="The notification blocks to send it through; null: those of whoever claims it",
        examples=[["slack-webhook/ops"]],
    )


class Notices(BaseModel):
    """What people are to be told."""

    notices: list[Notice] = Field(description="The notices, the oldest first")


@router.post("/claim", response_model=Notices, responses=declared(404))
async def claim_notices(
    request: Request, tenant: TenantSlug, caller: Recorder, body: NoticesClaim
) -> Response:
    """Hand out what people are still to be told, each once and for all; none older than a day."""
    claimed = await notices.claim(
        state_of(request).engine, tenant, body.limit, addressed=body.addressed
    )
    if claimed is None:
        raise no_tenant(tenant)
    names = Notice.model_fields
    shown = [{name: getattr(one, name) for name in names} for one in claimed]
    return documents.answer({"notices": shown})
