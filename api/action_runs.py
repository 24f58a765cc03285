"""`/tenants/{tenant}/actions/{name}/runs`: what each run of an action has done."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, Field

from api import documents, lists
from api.access import Reader, Recorder, TenantSlug
from api.actions import ID
from api.checkpoints import storable
from api.named import NamePath, checked, found, missing
from api.paging import Page, Paging
from api.problems import Refused, declared, unfit
from api.state import state_of
from deployments.actions import Faulty, read, runnable
from deployments.entry import Strict, Text
from deployments.step_entry import StepName
from store import action_runs
from store.steps import Action as ActionRow
from store.steps import ActionRun as RunRow
from store.steps import ActionStep as StepRow

router = APIRouter(prefix="/tenants/{tenant}/actions/{name}/runs", tags=["actions"])

MOST_BYTES = 512 * 1024

RunId = Annotated[UUID, Path(description="Prefect's id of the run", examples=[ID])]
StepPath = Annotated[
    str,
    Path(
        pattern=r"^[a-z][a-z0-9_]*$",
        max_length=63,
        description="The step's name",
        examples=["fetch"],
    ),
]
Value = Annotated[Any, AfterValidator(lambda value: storable(value, MOST_BYTES))]
Status = Literal["running", "completed", "failed"]


class StepBody(Strict):
    """What a step does, or has done."""

    kind: Text = Field(max_length=63, description="Its kind", examples=["http"])
    status: Status = Field(description="How it stands", examples=["completed"])
    input: Value = Field(
        None, description="What it took, without secrets", examples=[{"text": "Hello"}]
    )
    output: Value = Field(
        None, description="What came of it, of a completed one", examples=[{"status": 200}]
    )
    error: Annotated[Text, Field(max_length=4000)] | None = Field(
        None, description="Why it failed", examples=["GET https://example.com/ answered 500"]
    )
    next: StepName | None = Field(
        None, description="The step that is next; null: none", examples=["tell"]
    )


class StepRecord(BaseModel):
    """What a step of a run has done."""

    step: str = Field(description="Its name", examples=["fetch"])
    kind: str = Field(description="Its kind", examples=["http"])
    status: Status = Field(description="How it stands", examples=["completed"])
    input: Any = Field(description="What it took, without secrets", examples=[{"text": "Hello"}])
    output: Any = Field(
        description="What came of it; null of one that has not completed",
        examples=[{"status": 200}],
    )
    error: str | None = Field(description="Why it failed", examples=["It answered 500"])
    next: str | None = Field(description="The step after it; null: none", examples=["tell"])
    started_at: datetime = Field(description="When it was last begun", examples=[documents.INSTANT])
    finished_at: datetime | None = Field(
        description="When it ended; null while it runs", examples=[documents.INSTANT]
    )


class ActionRun(BaseModel):
    """A run of an action."""

    id: UUID = Field(description="Prefect's id of the run", examples=[ID])
    revision: int = Field(description="The action's, when the run was last taken up", examples=[3])
    started_at: datetime = Field(
        description="When it was first taken up", examples=[documents.INSTANT]
    )


class ActionRunSteps(ActionRun):
    """A run of an action, and its steps."""

    steps: list[StepRecord] = Field(description="Those that have begun, in that order")


class ActionRuns(Page):
    """A part of the runs of an action."""

    items: list[ActionRun] = Field(description="The runs, the latest first")


class RunnableStep(BaseModel):
    """A step as it is run, with what it takes from its template."""

    name: str = Field(description="Its name", examples=["fetch"])
    kind: str = Field(description="What it does", examples=["http"])
    input: dict[str, Any] = Field(description="What it takes", examples=[{"text": "Hello"}])
    timeout_seconds: float = Field(description="Its time limit", examples=[60])
    retries: int = Field(description="How often it is tried again", examples=[2])
    retry_delay_seconds: int = Field(description="After how long", examples=[10])
    next: list[dict[str, Any]] = Field(
        description="Its rules", examples=[[{"when": [], "step": "tell"}]]
    )


class Begun(BaseModel):
    """What a worker needs to run an action."""

    revision: int = Field(description="The action's", examples=[3])
    first: str = Field(description="The step that it begins with", examples=["fetch"])
    steps: list[RunnableStep] = Field(description="All of its steps")
    done: list[StepRecord] = Field(description="Steps that this run has completed already")
    allowed_addresses: list[str] = Field(
        description="Addresses, networks and names that steps may also call",
        examples=[["10.1.0.0/16"]],
    )


@router.get("", response_model=ActionRuns, responses=declared(404))
async def list_action_runs(
    request: Request, tenant: TenantSlug, caller: Reader, name: NamePath, paging: Paging
) -> Response:
    """List the runs of an action, the latest first."""
    await found(request, ActionRow, tenant, name)
    key = (RunRow.started_at, RunRow.id)
    rows = action_runs.rows(tenant, name)
    return await lists.answer(request, tenant, paging, rows, key, _run, newest=True)


@router.get("/{run_id}", response_model=ActionRunSteps, responses=declared(404))
async def get_action_run(
    request: Request, tenant: TenantSlug, caller: Reader, name: NamePath, run_id: RunId
) -> Response:
    """Tell what each step of a run has done."""
    known = None
    if "\0" not in name:
        known = await action_runs.find(state_of(request).engine, tenant, name, run_id)
    if known is None:
        raise _no_run(run_id)
    run, steps = known
    return documents.answer({**_run(run), "steps": [_step(one) for one in steps]})


@router.put("/{run_id}", response_model=Begun, responses=declared(404, 409))
async def begin_action_run(
    request: Request, tenant: TenantSlug, caller: Recorder, name: NamePath, run_id: RunId
) -> Response:
    """Take a run up, for the first time or again; for workers.

    The action is as it is now, so that one that has been mended goes on where it failed.
    """
    if "\0" in name:
        raise missing(ActionRow, name)
    try:
        with checked(tenant):
            begun = await action_runs.begin(state_of(request).engine, tenant, name, run_id)
            if begun is None:
                raise missing(ActionRow, name)
            found = runnable(tenant, read(begun.action.steps).steps, begun.templates)
    except action_runs.Elsewhere as error:
        raise Refused(409, f"{run_id} is a run of the action {error.action}.") from None
    except Faulty as error:
        raise unfit(*error.faults) from None
    return documents.answer(
        {
            "revision": begun.action.revision,
            "first": found.first,
            "steps": found.steps,
            "done": [_step(one) for one in begun.done],
            "allowed_addresses": begun.allowed_addresses,
        }
    )


@router.put("/{run_id}/steps/{step}", response_model=StepRecord, responses=declared(404, 409))
async def record_action_step(
    request: Request,
    tenant: TenantSlug,
    caller: Recorder,
    name: NamePath,
    run_id: RunId,
    step: StepPath,
    body: StepBody,
) -> Response:
    """Record what a step does, or has done; for workers. What is completed stays so."""
    if "\0" in name:
        raise missing(ActionRow, name)
    values = {column: getattr(body, column) for column in StepBody.model_fields}
    try:
        with checked(tenant):
            row = await action_runs.record(
                state_of(request).engine, tenant, name, run_id, step, values
            )
    except action_runs.Done:
        raise Refused(409, f"The step {step} of this run is completed already.") from None
    except action_runs.TooLarge:
        most = action_runs.MOST_BYTES >> 20
        raise unfit(
            f"output: the inputs and outputs of this run have more than {most} MiB together; "
            "let its steps put out less"
        ) from None
    if row is None:
        raise _no_run(run_id)
    return documents.answer(_step(row))


def _no_run(run_id: UUID) -> Refused:
    return Refused(404, f"There is no run {str(run_id)!r} of this action.")


def _run(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ActionRun.model_fields}


def _step(row: StepRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in StepRecord.model_fields}
