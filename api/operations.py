"""What concerns all tenants: the duties, the plan, applying it, the figures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents
from api.access import Admin, Anybody, Reader, everywhere
from api.problems import Refused, declared
from api.state import State, state_of
from deployments import explain
from deployments.entry import Strict
from deployments.policy import POLICIES, Policy, sync
from deployments.reconcile import Reconciler
from store import changes, definitions, jobs, tenants

router = APIRouter(tags=["operations"])


class Duty(BaseModel):
    """A kind of work that a definition may name."""

    name: str = Field(description="How definitions name it", examples=["workflow_run"])
    description: str | None = Field(
        description="What it does", examples=["Start a workflow in the workflow service."]
    )
    parameters: dict[str, Any] | None = Field(
        description="The JSON schema of its parameters; null where it does not load",
        examples=[{"type": "object", "properties": {"workflow_id": {"type": "string"}}}],
    )
    problem: str | None = Field(
        description="Why it does not load; null where it does",
        examples=["probes:check does not load: ImportError: no module named 'ping3'"],
    )


class Duties(BaseModel):
    """All duties."""

    items: list[Duty] = Field(description="The duties, by name")


class Difference(BaseModel):
    """One field of a deployment that is not as it should be."""

    field: str = Field(description="The field", examples=["parameters"])
    from_: Any = Field(alias="from", description="What Prefect has", examples=[{}])
    to: Any = Field(description="What the definition asks for", examples=[{"workflow_id": "sync"}])


class Update(BaseModel):
    """One deployment that is not as it should be."""

    definition: str = Field(description="Its definition", examples=["acme/nightly-sync"])
    differences: list[Difference] = Field(description="What differs")


class Plan(BaseModel):
    """What has to be done so that Prefect holds what the definitions ask for."""

    create: list[str] = Field(description="To be created", examples=[["acme/nightly-sync"]])
    update: list[Update] = Field(description="To be updated")
    delete: list[str] = Field(description="To be deleted", examples=[["acme/old"]])
    unchanged: int = Field(description="How many are as they should be", examples=[41])
    problems: dict[str, str] = Field(
        description="Why definitions cannot be carried out, by their address",
        examples=[{"acme/bad": "cron: '99 * * * *' has 99 as its minute; write 0 to 59"}],
    )


class ApplyBody(Strict):
    """Which changes may be carried out."""

    policy: Literal["sync", "upsert-only", "create-only"] = Field(
        "sync", description="Everything, no deletes, or nothing but creates", examples=["sync"]
    )


_EVERYTHING = ApplyBody()


class Applied(Plan):
    """What was done."""

    failed: dict[str, str] = Field(
        description="What went wrong, by the definition's address",
        examples=[{"acme/nightly-sync": "Prefect answered 500"}],
    )


class Stats(BaseModel):
    """How many there are of each; for a token of one tenant, of that tenant's."""

    tenants: int = Field(description="Tenants", examples=[3])
    suspended: int = Field(description="Suspended tenants", examples=[0])
    definitions: int = Field(description="Definitions", examples=[412])
    states: dict[documents.State, int] = Field(
        description="Definitions in each state", examples=[{"active": 410, "problem": 2}]
    )
    waiting: int | None = Field(
        description="Written definitions that Prefect may not know yet; null for a token of one "
        "tenant",
        examples=[0],
    )
    jobs: dict[Literal["queued", "running", "completed", "failed", "cancelled", "total"], int] = (
        Field(
            description="Jobs in each status, and all of them",
            examples=[
                {
                    "queued": 3,
                    "running": 2,
                    "completed": 40,
                    "failed": 1,
                    "cancelled": 0,
                    "total": 46,
                }
            ],
        )
    )


@router.get("/duties", response_model=Duties, responses=declared())
async def list_duties(request: Request, caller: Anybody) -> Response:
    """Tell what can be defined, and with which parameters."""
    state = state_of(request)
    items = [
        {"name": one.name, "description": one.description, "parameters": one.schema}
        | {"problem": None}
        for one in state.duties.values()
    ]
    items += [
        {"name": name, "description": None, "parameters": None, "problem": problem}
        for name, problem in state.broken.items()
    ]
    return documents.answer({"items": sorted(items, key=lambda one: str(one["name"]))})


@router.get("/plan", response_model=Plan, responses=declared())
async def plan(request: Request, caller: Reader) -> Response:
    """Tell what an apply would do now; secrets are masked."""
    everywhere(caller)
    comparison = await _reconciler(state_of(request), sync).compare()
    return documents.answer(explain.data(comparison))


@router.post("/apply", response_model=Applied, responses=declared(409))
async def apply(
    request: Request, caller: Admin, body: Annotated[ApplyBody, Body()] = _EVERYTHING
) -> Response:
    """Compare all definitions with all of their deployments, and mend what differs."""
    everywhere(caller)
    state = state_of(request)
    if state.applying.locked():
        raise Refused(409, "An apply is under way already; try again when it is done.")
    async with state.applying:
        report = await _reconciler(state, POLICIES[body.policy]).sweep()
    failed = {one.reference: one.error for one in report.outcomes if one.error}
    return documents.answer(explain.data(report.comparison) | {"failed": failed})


@router.get("/stats", response_model=Stats, responses=declared())
async def stats(request: Request, caller: Reader) -> Response:
    """Count tenants, definitions and jobs."""
    engine = state_of(request).engine
    own = caller.tenant
    states = await definitions.states(engine, own)
    return documents.answer(
        {
            "tenants": await tenants.counted(engine, only=own),
            "suspended": await tenants.counted(engine, only=own, suspended=True),
            "definitions": sum(states.values()),
            "states": states,
            "waiting": await changes.waiting(engine) if own is None else None,
            "jobs": await jobs.counts(engine, own),
        }
    )


def _reconciler(state: State, policy: Policy) -> Reconciler:
    return Reconciler(state.engine, state.gateway, state.settings, policy)
