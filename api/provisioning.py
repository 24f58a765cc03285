"""`/tenants/{tenant}/servers/provisioning`: which servers are to be set up, and how it went."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents, fleet
from api.access import Recorder, TenantSlug
from api.fleet import HANDLE, REQUEST, HandlePath
from api.problems import Refused, declared
from api.state import state_of
from deployments.entry import Instant, Strict, Text
from store import provisioning

router = APIRouter(prefix="/tenants/{tenant}/servers", tags=["records"])

MOST = 1000
"""Requests and results in one call."""

DAY = 86400


class ProvisioningClaim(Strict):
    """Which servers are to be claimed."""

    stuck_seconds: int = Field(
        1800,
        ge=1,
        le=30 * DAY,
        description="After how many seconds setting up is begun again",
        examples=[1800],
    )
    cooldown_seconds: int = Field(
        120,
        ge=0,
        le=DAY,
        description="After how many seconds a request that was never published is handed out again",
        examples=[120],
    )
    limit: int = Field(100, ge=1, le=MOST, description="The most servers", examples=[100])


class ProvisioningRequest(BaseModel):
    """A server that is to be set up."""

    handle: str = Field(description="Its handle", examples=[HANDLE])
    request_id: UUID = Field(
        description="The request; the same as before if that was never published",
        examples=[REQUEST],
    )
    is_recovery: bool = Field(
        description="Whether setting it up began before, and has not ended in time",
        examples=[False],
    )
    host: str | None = Field(description="Its name", examples=["web-1.example.com"])
    public_ip: str | None = Field(description="Its address", examples=["203.0.113.7"])


class ProvisioningRequests(BaseModel):
    """The servers that were claimed."""

    requests: list[ProvisioningRequest] = Field(description="What is to be published")


class ProvisioningResult(Strict):
    """How setting a server up has ended."""

    request_id: UUID = Field(
        description="The request that it answers", examples=[REQUEST], strict=False
    )
    server_handle: fleet.Handle = Field(description="The server's handle", examples=[HANDLE])
    status: Literal["success", "failed", "error"] = Field(
        description="Whether it is set up", examples=["success"]
    )
    error: Annotated[Text, Field(max_length=16384)] | None = Field(
        None, description="Why it is not", examples=["no route to host"]
    )
    server_ip: fleet.Address | None = Field(
        None, description="The address that it has", examples=["203.0.113.7"]
    )
    finished_at: Instant | None = Field(
        None, description="When it ended", examples=[documents.INSTANT]
    )


class ProvisioningResults(Strict):
    """How setting up some servers has ended."""

    results: list[ProvisioningResult] = Field(
        max_length=MOST, description="The results, at most 1,000"
    )


class ProvisioningApplied(BaseModel):
    """What became of results."""

    applied: list[str] = Field(
        description="The handles of the servers whose status they have changed",
        examples=[[HANDLE]],
    )
    superseded: list[UUID] = Field(
        description="Requests that are not live, or have been answered", examples=[[REQUEST]]
    )
    unknown: list[UUID] = Field(
        description="Requests about servers that are not there", examples=[[REQUEST]]
    )


@router.post("/provisioning", response_model=ProvisioningRequests, responses=declared(404))
async def claim_provisioning(
    request: Request, tenant: TenantSlug, caller: Recorder, body: ProvisioningClaim
) -> Response:
    """Claim the managed servers that are to be set up, so that nobody else gets them meanwhile.

    Those are `pending_setup`, or `provisioning` for too long, and have no live request that is
    younger than the cool-down, or than `stuck_seconds` if it was published. Their status stays.
    What counts is the database's clock.
    """
    with fleet.existing(tenant):
        claimed = await provisioning.claim(
            state_of(request).engine,
            tenant,
            stuck=timedelta(seconds=body.stuck_seconds),
            cooldown=timedelta(seconds=body.cooldown_seconds),
            limit=body.limit,
            who=caller.name,
        )
    names = ProvisioningRequest.model_fields
    shown = [{name: getattr(one, name) for name in names} for one in claimed]
    return documents.answer({"requests": shown})


@router.post(
    "/{handle}/provisioning/{request_id}/published", status_code=204, responses=declared(404, 409)
)
async def confirm_provisioning(
    request: Request,
    tenant: TenantSlug,
    caller: Recorder,
    handle: HandlePath,
    request_id: Annotated[UUID, Path(description="The request", examples=[REQUEST])],
) -> Response:
    """Say that a live request is in the queue. For one that is not live any more, it is a 409."""
    engine = state_of(request).engine
    try:
        with fleet.existing(tenant):
            there = await provisioning.publish(engine, tenant, handle, request_id, caller.name)
    except provisioning.NotLive:
        said = f"{request_id} is not the live request of {handle}: it was answered, or superseded."
        raise Refused(409, said) from None
    if not there:
        raise fleet.no_server(handle)
    return Response(status_code=204)


@router.post(
    "/provisioning/results", response_model=ProvisioningApplied, responses=declared(404, 409)
)
async def apply_provisioning(
    request: Request, tenant: TenantSlug, caller: Recorder, body: ProvisioningResults
) -> Response:
    """Apply results: a server is `ready`, or in `error` with an incident `provisioning_failed`.

    Only the result of a server's live request counts, and counts once.
    """
    results = [
        provisioning.Result(
            one.request_id,
            one.server_handle,
            one.status == "success",
            one.error,
            one.server_ip,
            one.finished_at,
        )
        for one in body.results
    ]
    at = datetime.now(UTC)
    with fleet.existing(tenant):
        done = await provisioning.apply(state_of(request).engine, tenant, results, at, caller.name)
    return documents.answer(
        {name: getattr(done, name) for name in ProvisioningApplied.model_fields}
    )
