"""What has run: the history of a definition, and the latest run of each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents
from api.access import Reader, TenantSlug, no_tenant
from api.definitions import Name, find
from api.paging import Page, Paging, bad_cursor, keyed, numbered, text_key
from api.problems import Refused, declared
from api.state import State, state_of
from deployments import history
from deployments.entry import Instant
from deployments.gateway import PrefectRefused
from store import definitions, tenants
from store.definitions import Order, Wanted

router = APIRouter(prefix="/tenants/{tenant}", tags=["runs"])

AT_ONCE = 8
"""Calls to Prefect at once, for one list of latest runs."""


class Run(BaseModel):
    """One run, as Prefect keeps it."""

    id: UUID = Field(
        description="Prefect's id of it", examples=["3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60"]
    )
    name: str = Field(description="Prefect's name of it", examples=["amber-otter"])
    occurrence: datetime = Field(
        description="When it was due: its nominal time", examples=[documents.INSTANT]
    )
    started: datetime | None = Field(
        description="When it began; null if it has not", examples=[documents.INSTANT]
    )
    finished: datetime | None = Field(
        description="When it ended; null if it has not", examples=[documents.INSTANT]
    )
    state: str = Field(description="Its state, as Prefect names it", examples=["Completed"])
    attempts: int = Field(description="How often it has been tried", examples=[1])
    error: str | None = Field(
        description="Why it failed; null if it did not",
        examples=["The workflow service does not answer."],
    )
    message: str | None = Field(
        description="What its state says", examples=["Execution 7 of workflow sync started."]
    )
    by: str = Field(
        description="`schedule`, the name of the token that asked for it, or `manual`",
        examples=["schedule"],
    )
    parameters: dict[str, Any] = Field(
        description="What the duty was handed", examples=[{"workflow_id": "sync"}]
    )
    result: Any = Field(
        description="Where Prefect keeps what the duty returned; null if it does not",
        examples=[None],
    )


class Runs(Page):
    """A part of a definition's history."""

    items: list[Run] = Field(description="The runs, the latest occurrence first")


class Latest(BaseModel):
    """A definition's latest run."""

    definition: str = Field(description="The definition's name", examples=["nightly-sync"])
    run: Run | None = Field(description="Its latest run that was due; null if there is none")


class LatestRuns(Page):
    """The latest runs of a part of a tenant's definitions."""

    items: list[Latest] = Field(description="One for each definition, by name")


@router.get("/definitions/{name}/runs", response_model=Runs, responses=declared(404))
async def list_runs(
    request: Request,
    tenant: TenantSlug,
    caller: Reader,
    name: Name,
    paging: Paging,
    state: Annotated[
        list[str] | None,
        Query(max_length=20, description="Only in these states", examples=[["Failed"]]),
    ] = None,
    since: Annotated[
        Instant | None,
        Query(description="Only those due then or later", examples=[documents.INSTANT]),
    ] = None,
    until: Annotated[
        Instant | None,
        Query(description="Only those due then or earlier; else now", examples=[documents.INSTANT]),
    ] = None,
    by: Annotated[
        str | None,
        Query(
            max_length=63,
            description="Only those by `schedule`, or that the token of this name asked for",
            examples=["schedule"],
        ),
    ] = None,
) -> Response:
    """Tell what has run, and what waits to start, the latest occurrence first."""
    rota = state_of(request)
    row, _ = await find(rota, tenant, name)
    wanted = history.Wanted(until or datetime.now(UTC), since, state or (), by)
    if row.deployment_id is None:
        return documents.answer(
            numbered(paging, [], 0) if paging.number else keyed(paging, [], _place, _itself)
        )
    deployment_id = str(row.deployment_id)
    if paging.number is None:
        position = _key(paging.before, "before") or _key(paging.after, "after")
        rows = await history.beside(
            rota.gateway,
            deployment_id,
            wanted,
            paging.size + 1,
            position,
            backwards=paging.before is not None,
        )
        return documents.answer(keyed(paging, rows, _place, _itself))
    items, total = await history.numbered(
        rota.gateway, deployment_id, wanted, paging.size, paging.offset
    )
    return documents.answer(numbered(paging, items, total))


@router.get("/definitions/{name}/runs/{run_id}", response_model=Run, responses=declared(404))
async def get_run(
    request: Request,
    tenant: TenantSlug,
    caller: Reader,
    name: Name,
    run_id: Annotated[
        UUID,
        Path(description="Prefect's id of it", examples=["3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60"]),
    ],
) -> Response:
    """Tell how one run fares."""
    state = state_of(request)
    row, _ = await find(state, tenant, name)
    try:
        found = await state.gateway.run(str(run_id))
    except PrefectRefused as refused:
        if refused.status != 404:
            raise
        found = {}
    if row.deployment_id is None or found.get("deployment_id") != str(row.deployment_id):
        raise Refused(404, f"The definition {row.reference} has no run {run_id}.")
    return documents.answer(history.shown(found))


@router.get("/latest-runs", response_model=LatestRuns, responses=declared(404))
async def list_latest_runs(
    request: Request, tenant: TenantSlug, caller: Reader, paging: Paging
) -> Response:
    """Tell how each definition fared last, by name."""
    state = state_of(request)
    after, before = text_key(paging.after, "after"), text_key(paging.before, "before")
    order = Order(False, paging.size, paging.offset, after, before)
    if paging.number is None:
        order = replace(order, limit=paging.size + 1)
    rows, total = await definitions.listed_and_counted(state.engine, tenant, Wanted(), order)
    if not rows and await tenants.find(state.engine, tenant) is None:
        raise no_tenant(tenant)
    found = await _latest(state, rows[: paging.size])

    def show(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"definition": row["name"], "run": found.get(row["name"])}

    if paging.number is None:
        return documents.answer(keyed(paging, rows, lambda row: [row["name"]], show))
    return documents.answer(numbered(paging, [show(row) for row in rows], total))


async def _latest(state: State, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    turns = asyncio.Semaphore(AT_ONCE)
    now = datetime.now(UTC)

    async def one(row: Mapping[str, Any]) -> tuple[str, Any]:
        if row["deployment_id"] is None:
            return row["name"], None
        async with turns:
            return row["name"], await history.latest(state.gateway, str(row["deployment_id"]), now)

    return dict(await asyncio.gather(*map(one, rows)))


def _place(run: Mapping[str, Any]) -> list[Any]:
    return [run["occurrence"], run["id"]]


def _itself(run: Any) -> Any:
    return run


def _key(key: list[Any] | None, field: str) -> tuple[datetime, str] | None:
    if key is None:
        return None
    try:
        due, id_ = key
        at = datetime.fromisoformat(due)
        if at.utcoffset() is not None and 1900 <= at.year < 9000:
            return at.astimezone(UTC), str(UUID(id_))
    except (ValueError, TypeError, AttributeError, OverflowError):
        pass
    raise bad_cursor(field)
