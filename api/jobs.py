"""`/tenants/{tenant}/jobs`: commands that wait for their turn, and what became of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import NoResultFound

from api import documents, lists
from api.access import Anybody, Editor, TenantSlug, Worker, no_tenant
from api.paging import Page, Paging
from api.problems import Refused, declared
from api.state import state_of
from deployments.entry import Strict, Text
from store import jobs
from store.work import Job as Row

router = APIRouter(prefix="/tenants/{tenant}/jobs", tags=["jobs"])

JOB = "8c6f1f0e-53a4-4c0a-9f0e-2d9b7f8f6a31"
EXECUTION = "e2b1c7de-6c0a-4a4e-8c3f-7f6f1f1c9a55"
RUN = "3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60"

MOST_OUTPUT = 65536
"""Bytes of output that are kept."""

Status = Literal["queued", "running", "completed", "failed", "cancelled"]
Name = Annotated[Text, Field(pattern=r"^[^/\x01-\x1f\x7f]+$", max_length=255)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)]
Value = Annotated[Text, Field(max_length=32768)]
JobPath = Annotated[
    str, Path(description="The job's id, or its name", examples=[JOB], max_length=255)
]


class NewJob(Strict):
    """A command that is to be run once."""

    name: Name = Field(
        description="How people address it; no other job of the tenant has it",
        examples=["nightly-export"],
    )
    command: Annotated[Text, Field(min_length=1, max_length=65536)] = Field(
        description="What /bin/sh -c is given on the worker", examples=["./export.sh --all"]
    )
    environment: dict[Variable, Value] = Field(
        {},
        max_length=200,
        description="Its variables, beside PATH, HOME, LANG, LC_ALL and TZ of the worker; the "
        "values are shown to nobody but the worker",
        examples=[{"REGION": "eu"}],
    )
    directory: Annotated[Text, Field(pattern="^/", max_length=4096)] | None = Field(
        None, description="Where it runs on the worker", examples=["/srv/export"]
    )
    priority: Annotated[int, Field(ge=0, le=9)] = Field(
        0, description="9 comes first; of equal ones, the one queued first", examples=[5]
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        None, description="After how long it is ended; null for never", examples=[3600]
    )
    retries: Annotated[int, Field(ge=0, le=10)] = Field(
        0, description="How often it is queued again after it has failed", examples=[2]
    )
    on_lost: Literal["requeue", "fail"] = Field(
        "requeue",
        description="What becomes of it when its worker dies while it runs",
        examples=["requeue"],
    )


class Job(BaseModel):
    """A command, and what became of it."""

    id: UUID = Field(description="Its id", examples=[JOB])
    tenant: str = Field(description="The tenant's slug", examples=["acme"])
    name: str = Field(description="How people address it", examples=["nightly-export"])
    command: str = Field(description="What the shell is given", examples=["./export.sh --all"])
    variables: list[str] = Field(
        description="The names of its own variables", examples=[["REGION"]]
    )
    directory: str | None = Field(description="Where it runs", examples=["/srv/export"])
    status: Status = Field(description="How it is", examples=["completed"])
    cancel_requested_at: datetime | None = Field(
        description="Since when it is to be cancelled", examples=[documents.INSTANT]
    )
    priority: int = Field(description="9 comes first", examples=[0])
    timeout_seconds: float | None = Field(description="After how long it is ended", examples=[3600])
    retries: int = Field(description="How often it may be queued again", examples=[2])
    on_lost: Literal["requeue", "fail"] = Field(
        description="What becomes of it when its worker dies", examples=["requeue"]
    )
    attempt: int = Field(description="Which of its runs this is, from 1", examples=[1])
    run_id: UUID | None = Field(
        description="Prefect's run of it; null before it has one", examples=[RUN]
    )
    exit_code: int | None = Field(
        description="Its exit code; 128 and the number of the signal that ended it", examples=[0]
    )
    output: str | None = Field(
        description="The last 64 KiB of what it wrote; null in lists", examples=["done\n"]
    )
    error: str | None = Field(
        description="What went wrong beside its exit code", examples=[jobs.LOST]
    )
    last_run: datetime | None = Field(
        description="When it last ended", examples=[documents.INSTANT]
    )
    queued_at: datetime = Field(description="Since when it waits", examples=[documents.INSTANT])
    started_at: datetime | None = Field(description="When it began", examples=[documents.INSTANT])
    finished_at: datetime | None = Field(
        description="When it ended for good", examples=[documents.INSTANT]
    )
    created_at: datetime = Field(description="When it was made", examples=[documents.INSTANT])
    updated_at: datetime = Field(
        description="When somebody last changed it", examples=[documents.INSTANT]
    )
    created_by: str = Field(description="Who queued it first", examples=["ci"])


class Jobs(Page):
    """A part of a tenant's jobs."""

    items: list[Job] = Field(description="The jobs, the latest first")


class JobStart(Strict):
    """Who wants to begin a job."""

    run_id: UUID = Field(description="Prefect's run", examples=[RUN], strict=False)
    attempt: Annotated[int, Field(ge=1, lt=2**31)] = Field(
        description="Which of the job's runs it is", examples=[1]
    )
    execution: UUID = Field(
        description="Drawn when the run began; asked with again, the answer is the same",
        examples=[EXECUTION],
        strict=False,
    )


class JobDecision(BaseModel):
    """Whether a job may begin, and what it is."""

    decision: Literal["go", "wait", "gone"] = Field(
        description="go; wait, and ask again; or gone, for it is not this run's to begin",
        examples=["go"],
    )
    why: str = Field(
        description="Why it does not go; empty where it does",
        examples=["2 jobs are running, and 2 may"],
    )
    name: str = Field(description="Its name", examples=["nightly-export"])
    command: str = Field(description="What the shell is given", examples=["./export.sh --all"])
    environment: dict[str, str] = Field(
        description="Its variables; none unless it goes", examples=[{"REGION": "eu"}]
    )
    directory: str | None = Field(description="Where it runs", examples=["/srv/export"])
    timeout_seconds: float | None = Field(description="After how long it is ended", examples=[3600])


class JobEnd(Strict):
    """How a job's command has ended."""

    execution: UUID = Field(
        description="What was drawn when the run began", examples=[EXECUTION], strict=False
    )
    interrupted: bool = Field(
        False,
        description="Whether it was ended for a cancellation, or for the worker's end",
        examples=[False],
    )
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = Field(
        None, description="Its exit code; null if it never began", examples=[0]
    )
    output: Annotated[Text, Field(max_length=MOST_OUTPUT)] | None = Field(
        None, description="The last 64 KiB of what it wrote", examples=["done\n"]
    )
    error: Annotated[Text, Field(max_length=16384)] | None = Field(
        None, description="Why it has failed whatever its exit code", examples=["It took too long."]
    )


_SHOWN = tuple(name for name in Job.model_fields if name not in ("variables", "output"))


def _job(row: Row) -> dict[str, Any]:
    shown = {name: getattr(row, name) for name in _SHOWN}
    return shown | {"variables": sorted(row.environment), "output": row.output}


def _listed(row: Any) -> dict[str, Any]:
    shown = {name: getattr(row, name) for name in _SHOWN}
    return shown | {"variables": sorted(row.variables), "output": None}


@router.get("", response_model=Jobs, responses=declared(404))
async def list_jobs(
    request: Request,
    tenant: TenantSlug,
    caller: Anybody,
    paging: Paging,
    status: Annotated[
        list[Status] | None,
        Query(
            max_length=5, description="Their status; several may be named", examples=[["queued"]]
        ),
    ] = None,
    q: Annotated[
        str | None, Query(max_length=255, description="A part of the name", examples=["export"])
    ] = None,
) -> Response:
    """List the jobs of a tenant, the latest first, without their output."""
    sought = q and q.replace("\0", "\N{REPLACEMENT CHARACTER}")
    rows = jobs.rows(tenant, status or (), sought)
    key = (Row.created_at, Row.id)
    return await lists.answer(request, tenant, paging, rows, key, _listed, newest=True)


@router.post("", response_model=Job, status_code=201, responses=declared(404, 409))
async def create_job(
    request: Request, tenant: TenantSlug, caller: Editor, body: NewJob
) -> Response:
    """Queue a command, to be run once.

    Whoever may do this runs programs in the name of the worker's user, on workers that allow it.
    """
    engine = state_of(request).engine
    try:
        row = await jobs.create(engine, tenant, body.model_dump(exclude_unset=True), caller.name)
    except NoResultFound:
        raise no_tenant(tenant) from None
    if row is None:
        said = f"There is a job {body.name!r} already; requeue it, or give another name."
        raise Refused(409, said, [("name", "it is taken")])
    return documents.answer(_job(row), 201, {"Location": f"{request.url.path}/{row.id}"})


@router.get("/{job}", response_model=Job, responses=declared(404))
async def get_job(request: Request, tenant: TenantSlug, caller: Anybody, job: JobPath) -> Response:
    """Read one job, with the last of its output."""
    row = await jobs.find(state_of(request).engine, tenant, job)
    return documents.answer(_job(_there(row, job)))


@router.post("/{job}/cancel", response_model=Job, responses=declared(404))
async def cancel_job(
    request: Request, tenant: TenantSlug, caller: Editor, job: JobPath
) -> Response:
    """Cancel a job: at once if it is queued, else its worker ends it first.

    One that has ended stays as it is.
    """
    row = await jobs.cancel(state_of(request).engine, tenant, job, caller.name)
    return documents.answer(_job(_there(row, job)))


@router.post("/{job}/requeue", response_model=Job, responses=declared(404, 409))
async def requeue_job(
    request: Request, tenant: TenantSlug, caller: Editor, job: JobPath
) -> Response:
    """Queue a job once more that has ended."""
    try:
        row = await jobs.requeue(state_of(request).engine, tenant, job, caller.name)
    except jobs.Running:
        raise _running(job) from None
    return documents.answer(_job(_there(row, job)))


@router.delete("/{job}", status_code=204, responses=declared(404, 409))
async def delete_job(
    request: Request, tenant: TenantSlug, caller: Editor, job: JobPath
) -> Response:
    """Delete a job that is not running."""
    try:
        gone = await jobs.delete(state_of(request).engine, tenant, job, caller.name)
    except jobs.Running:
        raise _running(job) from None
    if not gone:
        raise _no_job(job)
    return Response(status_code=204)


@router.post("/{job}/start", response_model=JobDecision, responses=declared(404))
async def start_job(
    request: Request, tenant: TenantSlug, caller: Worker, job: JobPath, body: JobStart
) -> Response:
    """Ask whether a run may begin its job; for workers.

    It may if fewer of the tenant's jobs are running than may, whatever workers there are, and if
    neither the tenant is suspended nor the definition of its jobs paused.
    """
    engine = state_of(request).engine
    found = _there(await jobs.find(engine, tenant, job), job)
    started = await jobs.start(engine, tenant, found.id, body.run_id, body.attempt, body.execution)
    if started is None:
        raise _no_job(job)
    row, goes = started.job, started.decision == "go"
    return documents.answer(
        {
            "decision": started.decision,
            "why": started.why,
            "name": row.name,
            "command": row.command,
            "environment": row.environment if goes else {},
            "directory": row.directory,
            "timeout_seconds": row.timeout_seconds,
        }
    )


@router.post("/{job}/finish", response_model=Job, responses=declared(404, 409))
async def finish_job(
    request: Request, tenant: TenantSlug, caller: Worker, job: JobPath, body: JobEnd
) -> Response:
    """Report how a job's command has ended; for workers.

    It is then completed, failed, cancelled, or queued again if it has retries left.
    """
    engine = state_of(request).engine
    output = body.output and body.output.encode()[-MOST_OUTPUT:].decode(errors="ignore")
    end = jobs.End(body.interrupted, body.exit_code, output, body.error)
    found = _there(await jobs.find(engine, tenant, job), job)
    try:
        row = await jobs.finish(engine, tenant, found.id, body.execution, end)
    except jobs.Superseded:
        raise Refused(409, f"The job {job[:255]!r} is not run by this execution.") from None
    return documents.answer(_job(_there(row, job)))


def _there(row: Row | None, job: str) -> Row:
    if row is None:
        raise _no_job(job)
    return row


def _no_job(job: str) -> Refused:
    return Refused(404, f"There is no job {job[:255]!r}.")


def _running(job: str) -> Refused:
    return Refused(409, f"The job {job[:255]!r} is running; cancel it first.")
