"""`/tenants/{tenant}/incidents`: what is wrong, and what was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents, fleet, lists
from api.access import Anybody, Recorder, TenantSlug
from api.fleet import HANDLE, INCIDENT, IncidentStatus, without_default
from api.paging import Page, Paging
from api.problems import Refused, declared, unfit
from api.state import state_of
from deployments.entry import Instant, Strict, Text
from store import incidents
from store.fleet import Incident as Row

router = APIRouter(prefix="/tenants/{tenant}/incidents", tags=["records"])

MOST = 1000
"""Incidents in one call, to open and to close."""

IncidentId = Annotated[UUID, Path(description="The incident's id", examples=[INCIDENT])]


class IncidentIdentity(Strict):
    """Which incident."""

    server: fleet.Handle | None = Field(
        None, description="The server's handle; null where it is about none", examples=[HANDLE]
    )
    kind: fleet.Kind = Field(description="Of which kind", examples=["provider_api_unavailable"])
    about: fleet.About = Field(
        "",
        description="What it is about; empty where there is one of its kind only",
        examples=["time4vps"],
    )


class IncidentOpening(IncidentIdentity):
    """An incident that is to be open."""

    severity: fleet.Severity = Field("warning", description="How bad it is", examples=["warning"])
    title: Annotated[Text, Field(min_length=1, max_length=2000)] = Field(
        description="The same for people", examples=["time4vps does not answer"]
    )
    details: fleet.Details = Field(
        {},
        description="More of it, for programs; at most 64 KiB as text",
        examples=[{"status_code": 502}],
    )


class IncidentsSeen(Strict):
    """Which incidents are to be open, and which are not."""

    at: Instant = Field(
        description="When that was seen; if that is ahead, it counts as now",
        examples=[documents.INSTANT],
    )
    open: list[IncidentOpening] = Field(
        [], max_length=MOST, description="Those that are to be open; at most 1,000"
    )
    close: list[IncidentIdentity] = Field(
        [], max_length=MOST, description="Those that are over, if they are open; at most 1,000"
    )


class IncidentsWritten(BaseModel):
    """What became of incidents."""

    opened: list[fleet.Incident] = Field(description="Those that were not open")
    still_open: list[fleet.Incident] = Field(description="Those that were open already")
    closed: list[fleet.Incident] = Field(description="Those that are over now")


class IncidentPatch(Strict):
    """What is to change of an incident; what is left out stays as it is."""

    status: IncidentStatus = Field(
        "recovering",
        description="recovering counts as an attempt; what is resolved stays so",
        examples=["recovering"],
        json_schema_extra=without_default,
    )
    details: fleet.Details = Field(
        {},
        description="More of it, for programs: all of it, at most 64 KiB as text",
        examples=[{"ticket": "OPS-17"}],
        json_schema_extra=without_default,
    )


class Incidents(Page):
    """A part of a tenant's incidents."""

    items: list[fleet.Incident] = Field(description="The incidents, the latest first")


@router.put("", response_model=IncidentsWritten, responses=declared(404, 409))
async def put_incidents(
    request: Request, tenant: TenantSlug, caller: Recorder, body: IncidentsSeen
) -> Response:
    """Open and close incidents, all of them or none; at most one is open of each.

    One that is open already is seen again, with this severity, title and details. One that was
    seen open later than `at` is not closed. More than 10,000 that are open are a 409.
    """
    at = fleet.check_clock(body.at)
    opening = [
        incidents.Opening(one.server, one.kind, one.about, one.severity, one.title, one.details)
        for one in body.open
    ]
    closing = [(one.server, one.kind, one.about) for one in body.close]
    engine = state_of(request).engine
    try:
        with fleet.existing(tenant):
            written = await incidents.put(engine, tenant, at, opening, closing, caller.name)
    except incidents.NoServer as error:
        raise unfit(f"open.{error.number}.server: there is no server {error.handle!r}") from None
    return documents.answer(
        {
            name: [fleet.incident(one) for one in getattr(written, name)]
            for name in IncidentsWritten.model_fields
        }
    )


@router.get("", response_model=Incidents, responses=declared(404))
async def list_incidents(
    request: Request,
    tenant: TenantSlug,
    caller: Anybody,
    paging: Paging,
    status: Annotated[
        IncidentStatus | None, Query(description="Their status", examples=["detected"])
    ] = None,
    kind: Annotated[
        str | None, Query(max_length=63, description="Their kind", examples=["server_unreachable"])
    ] = None,
    server: Annotated[
        str | None, Query(max_length=63, description="Their server's handle", examples=[HANDLE])
    ] = None,
    open: Annotated[
        bool | None, Query(description="Those that are not resolved, or are", examples=[True])
    ] = None,
) -> Response:
    """List the incidents of a tenant, the latest detected first."""
    named, of = (one and one.replace("\0", "\N{REPLACEMENT CHARACTER}") for one in (kind, server))
    rows = incidents.rows(tenant, incidents.Wanted(status, named, of, open))
    key = (Row.detected_at, Row.id)
    return await lists.answer(request, tenant, paging, rows, key, fleet.incident, newest=True)


@router.get("/{incident_id}", response_model=fleet.Incident, responses=declared(404))
async def get_incident(
    request: Request, tenant: TenantSlug, caller: Anybody, incident_id: IncidentId
) -> Response:
    """Read one incident."""
    found = await incidents.get(state_of(request).engine, tenant, incident_id)
    if found is None:
        raise _no_incident(incident_id)
    return documents.answer(fleet.incident(found))


@router.patch("/{incident_id}", response_model=fleet.Incident, responses=declared(404, 409))
async def patch_incident(
    request: Request,
    tenant: TenantSlug,
    caller: Recorder,
    incident_id: IncidentId,
    body: IncidentPatch,
) -> Response:
    """Change what the body names of an incident."""
    values = body.model_dump(exclude_unset=True)
    engine, at = state_of(request).engine, datetime.now(UTC)
    try:
        with fleet.existing(tenant):
            found = await incidents.change(
                engine, tenant, incident_id, at, **values, who=caller.name
            )
    except incidents.Resolved:
        said = "The incident is resolved, and stays so; what is wrong again is a new one."
        raise Refused(409, said, [("status", "it is resolved, and stays so")]) from None
    if found is None:
        raise _no_incident(incident_id)
    return documents.answer(fleet.incident(found))


def _no_incident(incident_id: UUID) -> Refused:
    return Refused(404, f"There is no incident {incident_id} of this tenant.")
