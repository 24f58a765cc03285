"""`PUT /tenants/{tenant}/servers/checks`: what one look at a fleet has found."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents, fleet
from api.access import Recorder, TenantSlug
from api.fleet import HANDLE, State
from api.problems import declared
from api.state import state_of
from deployments.entry import Instant, Strict, Text
from store import checks
from store.health import Check, Trouble

router = APIRouter(prefix="/tenants/{tenant}/servers/checks", tags=["records"])

MOST = 5000
"""Checks in one call."""


class TroubleItem(Strict):
    """Something that was found wrong with a server."""

    kind: fleet.Kind = Field(description="What, as a name", examples=["resource_exhausted"])
    about: fleet.About = Field(
        "", description="Of what; empty where there is one only", examples=["disk /var"]
    )
    level: fleet.Level = Field(
        description="degraded makes a warning, critical a critical incident", examples=["degraded"]
    )
    text: fleet.Line = Field(description="The same for people", examples=["disk /var is 92 % full"])


class CheckItem(Strict):
    """What was found of one server."""

    handle: fleet.Handle = Field(description="The server's handle", examples=[HANDLE])
    outcome: Literal["up", "down", "unknown"] = Field(
        description="Whether it answers; unknown where the looking failed, not the server",
        examples=["up"],
    )
    reason: fleet.Line | None = Field(
        None, description="Why it is not up", examples=["connection refused"]
    )
    facts: fleet.Details | None = Field(
        None,
        description="What was measured, at most 64 KiB as text; null where nothing was",
        examples=[{"uptime_seconds": 86400}],
    )
    problems: list[TroubleItem] = Field(
        [],
        max_length=100,
        description="What was found wrong; of a server that is up, everything, at most 100",
    )


class Checks(Strict):
    """One look at a fleet."""

    at: Instant = Field(
        description="When; a server that was checked then or later already stays as it is",
        examples=[documents.INSTANT],
    )
    checks: list[CheckItem] = Field(
        max_length=MOST, description="What was found, of each server once; at most 5,000"
    )
    failures_needed: int = Field(
        2,
        ge=1,
        le=100,
        description="Checks in a row that have to find a server down before it is held to be",
        examples=[2],
    )
    prober: Annotated[Text, Field(min_length=1, max_length=200)] = Field(
        description="Who looked", examples=["acme/health"]
    )


class ChecksRecorded(BaseModel):
    """What follows from a look at a fleet."""

    opened: list[fleet.Incident] = Field(description="The incidents that it has opened")
    closed: list[fleet.Incident] = Field(description="Those that it has closed")
    states: dict[str, State] = Field(
        description="The state of each server, by its handle", examples=[{HANDLE: "up"}]
    )
    flapping: list[str] = Field(
        description="The handles of those that go up and down", examples=[[HANDLE]]
    )
    prober: Literal["ok", "failed"] = Field(
        description="failed: more than half of at least 5 servers were not up, and had been up "
        "before, or never been checked; only those that are up were written",
        examples=["ok"],
    )
    unknown: list[str] = Field(
        description="Handles that no server has, for one may be deleted meanwhile",
        examples=[["vps-1"]],
    )


@router.put("", response_model=ChecksRecorded, responses=declared(404, 409))
async def put_checks(
    request: Request, tenant: TenantSlug, caller: Recorder, body: Checks
) -> Response:
    """Record what one look at a fleet has found, and open and close incidents accordingly.

    A tenant has at most 10,000 open. What would open more is recorded, and opens nothing but one
    incident `too_many_incidents`.
    """
    fleet.check_clock(body.at)
    fleet.check_unique("checks.*.handle", [one.handle for one in body.checks])
    found = {one.handle: _check(one) for one in body.checks}
    sweep = checks.Sweep(body.at, found, body.failures_needed, body.prober)
    with fleet.existing(tenant):
        swept = await checks.record(state_of(request).engine, tenant, sweep, caller.name)
    return documents.answer(
        {
            "opened": [fleet.incident(one) for one in swept.opened],
            "closed": [fleet.incident(one) for one in swept.closed],
            "states": swept.states,
            "flapping": swept.flapping,
            "prober": "failed" if swept.prober_failed else "ok",
            "unknown": swept.unknown,
        }
    )


def _check(item: CheckItem) -> Check:
    problems = [Trouble(one.kind, one.level, one.text, one.about) for one in item.problems]
    return Check(item.outcome, item.reason, item.facts, problems)
