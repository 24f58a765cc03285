"""`/tenants/{tenant}/dead-letters`: runs that have failed for good, replayed or discarded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents, lists
from api.access import Editor, Reader, TenantSlug, no_tenant
from api.paging import Page, Paging
from api.problems import Refused, declared
from api.state import state_of
from deployments import letters as replaying
from deployments.entry import Instant, Strict, Text
from deployments.runs import CannotRun
from store import letters, tenants
from store.letters import DeadLetter as Row
from store.letters import Decided, Wanted

router = APIRouter(prefix="/tenants/{tenant}/dead-letters", tags=["runs"])

MOST = 200
"""Letters that one call replays."""

ID = "9b1d7f60-3c2a-4f5e-8a41-6d0c2e7b9f13"
RUN = "3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60"

LetterStatus = Literal["open", "replayed", "discarded"]
LetterId = Annotated[UUID, Path(description="The dead letter's id", examples=[ID])]


class DeadLetter(BaseModel):
    """A run that has failed for good."""

    id: UUID = Field(description="Its id", examples=[ID])
    definition: str = Field(description="The name of its definition", examples=["nightly-sync"])
    definition_id: UUID = Field(
        description="The definition's id; it may be gone",
        examples=["0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"],
    )
    run_id: UUID = Field(description="Prefect's id of the run that failed last", examples=[RUN])
    occurrence: datetime = Field(
        description="The nominal time that it was for", examples=[documents.INSTANT]
    )
    trigger: Literal["schedule", "manual"] = Field(
        description="What made it due", examples=["schedule"]
    )
    parameters: dict[str, Any] = Field(
        description="What the duty was handed", examples=[{"workflow_id": "sync"}]
    )
    error: str = Field(
        description="Why it failed last, at most 4096 characters",
        examples=["The workflow service does not answer."],
    )
    attempts: int = Field(description="How often it has been tried, in all runs", examples=[4])
    first_at: datetime = Field(description="When it failed first", examples=[documents.INSTANT])
    last_at: datetime = Field(description="When it failed last", examples=[documents.INSTANT])
    status: LetterStatus = Field(
        description="open; replayed, by a run that has not failed so far; or discarded",
        examples=["open"],
    )
    note: str | None = Field(description="Why it was discarded", examples=["Done by hand."])
    replays: int = Field(description="How often it has been replayed", examples=[1])
    replay_run_id: UUID | None = Field(
        description="Prefect's id of the last replay's run", examples=[RUN]
    )
    replay_due: datetime | None = Field(
        description="When that is due", examples=[documents.INSTANT]
    )
    decided_at: datetime | None = Field(
        description="When it was last replayed or discarded", examples=[documents.INSTANT]
    )
    decided_by: str | None = Field(
        description="By whom; `rota` where Prefect's own Retry did it", examples=["ops"]
    )


class DeadLetters(Page):
    """A part of a tenant's dead letters."""

    items: list[DeadLetter] = Field(description="The dead letters, the latest failure first")


class Replays(Strict):
    """Which open dead letters are to be replayed, and how fast."""

    definition: Text | None = Field(
        None, max_length=63, description="Only of this definition", examples=["nightly-sync"]
    )
    since: Instant | None = Field(
        None, description="Only those that failed then or later", examples=[documents.INSTANT]
    )
    until: Instant | None = Field(
        None, description="Only those that failed then or earlier", examples=[documents.INSTANT]
    )
    per_minute: float = Field(
        60, ge=0.1, le=6000, description="How many fall due in a minute", examples=[60]
    )
    limit: int = Field(100, ge=1, le=MOST, description="The most, in this call", examples=[100])


class Replay(BaseModel):
    """A run that replays a dead letter."""

    id: UUID = Field(description="The dead letter's id", examples=[ID])
    run_id: UUID = Field(description="Prefect's id of the run", examples=[RUN])


class Skipped(BaseModel):
    """A dead letter that cannot be replayed."""

    id: UUID = Field(description="The dead letter's id", examples=[ID])
    reason: str = Field(
        description="Why", examples=["The definition acme/nightly-sync has a problem: ..."]
    )


class ReplaysMade(BaseModel):
    """What became of dead letters."""

    replayed: list[Replay] = Field(description="Those that have a run now, the earliest first")
    skipped: list[Skipped] = Field(description="Those that are still open")
    until: datetime | None = Field(
        description="When the last run is due; null without any", examples=[documents.INSTANT]
    )


class Discard(Strict):
    """Why a dead letter is to be let be."""

    note: Text | None = Field(
        None, max_length=1024, description="Why, for people", examples=["Done by hand."]
    )


_DISCARD, _REPLAYS = Discard(), Replays()  # what an empty body asks for


@router.get("", response_model=DeadLetters, responses=declared(404))
async def list_letters(
    request: Request,
    tenant: TenantSlug,
    caller: Reader,
    paging: Paging,
    status: Annotated[
        LetterStatus | None, Query(description="Their status", examples=["open"])
    ] = None,
    definition: Annotated[
        str | None,
        Query(max_length=63, description="Of this definition", examples=["nightly-sync"]),
    ] = None,
    since: Annotated[
        Instant | None,
        Query(description="Only those that failed then or later", examples=[documents.INSTANT]),
    ] = None,
    until: Annotated[
        Instant | None,
        Query(description="Only those that failed then or earlier", examples=[documents.INSTANT]),
    ] = None,
) -> Response:
    """List the dead letters of a tenant, the latest failure first."""
    named = definition and definition.replace("\0", "\N{REPLACEMENT CHARACTER}")
    rows = letters.rows(tenant, Wanted(status, named, since, until))
    key = (Row.last_at, Row.id)
    return await lists.answer(request, tenant, paging, rows, key, _shown, newest=True)


@router.post("/replay", response_model=ReplaysMade, status_code=202, responses=declared(404, 409))
async def replay_letters(
    request: Request,
    tenant: TenantSlug,
    caller: Editor,
    body: Annotated[Replays, Body()] = _REPLAYS,
) -> Response:
    """Replay open dead letters at a rate, those first that failed first.

    Runs that were asked for so before, and are not due yet, come first. A call that broke off is
    made again: what has a run already gets no other.
    """
    state = state_of(request)
    if await tenants.find(state.engine, tenant) is None:
        raise no_tenant(tenant)
    wanted = Wanted(None, body.definition, body.since, body.until)
    try:
        made = await replaying.replay_many(
            state.engine,
            state.gateway,
            tenant,
            wanted,
            body.limit,
            body.per_minute,
            datetime.now(UTC),
            caller.name,
        )
    except CannotRun as refused:
        raise Refused(409, str(refused)) from None
    answer = {
        "replayed": [{"id": one, "run_id": run_id} for one, run_id in made.runs.items()],
        "skipped": [{"id": one, "reason": why} for one, why in made.skipped.items()],
        "until": made.until,
    }
    return documents.answer(answer, 202)


@router.get("/{letter_id}", response_model=DeadLetter, responses=declared(404))
async def get_letter(
    request: Request, tenant: TenantSlug, caller: Reader, letter_id: LetterId
) -> Response:
    """Read one dead letter."""
    found = await letters.get(state_of(request).engine, tenant, letter_id)
    return documents.answer(_shown(_there(found, letter_id)))


@router.post(
    "/{letter_id}/replay",
    response_model=DeadLetter,
    status_code=202,
    responses=declared(404, 409),
)
async def replay_letter(
    request: Request, tenant: TenantSlug, caller: Editor, letter_id: LetterId
) -> Response:
    """Make a run for the same occurrence, with the same parameters and the same idempotency key.

    One that has been replayed stays as it is, until its run fails as well.
    """
    state, now = state_of(request), datetime.now(UTC)
    try:
        found = await replaying.replay(
            state.engine, state.gateway, tenant, letter_id, now, caller.name
        )
    except (CannotRun, Decided) as refused:
        raise Refused(409, str(refused)) from None
    return documents.answer(_shown(_there(found, letter_id)), 202)


@router.post("/{letter_id}/discard", response_model=DeadLetter, responses=declared(404, 409))
async def discard_letter(
    request: Request,
    tenant: TenantSlug,
    caller: Editor,
    letter_id: LetterId,
    body: Annotated[Discard, Body()] = _DISCARD,
) -> Response:
    """Let a dead letter be; one that has been replayed is a 409."""
    engine, now = state_of(request).engine, datetime.now(UTC)
    try:
        found = await letters.discard(engine, tenant, letter_id, body.note, caller.name, now)
    except Decided as refused:
        raise Refused(409, str(refused)) from None
    return documents.answer(_shown(_there(found, letter_id)))


def _there(found: Row | None, letter_id: UUID) -> Row:
    if found is None:
        raise Refused(404, f"There is no dead letter {letter_id} of this tenant.")
    return found


def _shown(row: Any) -> dict[str, Any]:
    own = DeadLetter.model_fields.keys() - {"definition"}
    return {"definition": row.name, **{name: getattr(row, name) for name in own}}
