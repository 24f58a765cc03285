"""The duty that runs a job: a command that somebody has queued."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import uuid4

from prefect import flow, get_run_logger
from prefect.states import Cancelled, Completed, Failed, Scheduled
from pydantic import BaseModel, ConfigDict, Field

from blocks.outgoing import logger
from blocks.records import (
    Records,
    RecordsError,
    RecordsRefused,
    RecordsUnavailable,
    TenantRecords,
)
from flows.blocks_by_name import load
from flows.circuit import current, start_again
from flows.commands import CannotBegin, Ended, Log, run
from flows.occurrence import current_occurrence
from flows.tenancy import tenant_of

NonEmpty = Annotated[str, Field(min_length=1, max_length=200)]

ALLOWED = "ROTA_ALLOW_COMMANDS"
"""The variable of the worker's environment without which it runs no commands."""
TRUE = ("1", "true", "yes", "on")

ASK_SECONDS = 0.5
"""How long to wait for the turn before asking again; while the jobs are held, up to ten times."""

AWAY_SECONDS = 5.0
"""How long to wait before Rota is called again that has not answered for a call's whole time."""

ELSEWHERE = timedelta(seconds=30)
"""After how long a job is tried again that came to a worker which runs no commands."""
NOT_ALLOWED = "NotAllowed"
"""The name of such a run's state, by which `watch` tells the job."""

NOT_FOUND, CONFLICT = 404, 409


class NoJob(Exception):
    """The run does not say which job to run."""


class Told(BaseModel):
    """What the API says of a job that is to begin."""

    model_config = ConfigDict(extra="ignore")

    decision: Literal["go", "wait", "gone"]
    why: str = ""
    name: str
    command: str
    environment: dict[str, str]
    directory: str | None
    timeout_seconds: float | None = Field(gt=0)


class Job:
    """A job, as a run of it sees it."""

    def __init__(self, mine: TenantRecords, tenant: str, key: str, attempt: int) -> None:
        self._mine = mine
        self.tenant = tenant
        self.key = key
        self.attempt = attempt
        self._execution = str(uuid4())

    async def begin(self) -> Told:
        """Ask until it may begin, or need not."""
        body = {
            "run_id": current_occurrence().run_id,
            "attempt": self.attempt,
            "execution": self._execution,
        }
        said, wait = "", ASK_SECONDS
        while True:
            answer = await self._post("start", body)
            told = Told.model_validate(answer)
            if told.decision != "wait":
                return told
            if told.why != said:
                get_run_logger().info("It waits for its turn: %s.", told.why)
            held = "paused" in told.why or "suspended" in told.why
            said, wait = told.why, min(wait * 1.5, 10 * ASK_SECONDS) if held else ASK_SECONDS
            await asyncio.sleep(wait)

    async def end(self, ended: Ended | None, error: str | None, interrupted: bool = False) -> str:
        """Report its end; return the status that it has now."""
        body = {
            "execution": self._execution,
            "interrupted": interrupted,
            "exit_code": ended.exit_code if ended else None,
            "output": ended.tail if ended else None,
            "error": error,
        }
        return str((await self._post("finish", body))["status"])

    async def _post(self, what: str, body: Mapping[str, Any]) -> Any:
        """Tell Rota, however long it stays away: nobody else knows what has become of the job."""
        while True:
            try:
                # The key lets it be tried again: who has begun is told so once more.
                return await self._mine.post(
                    *("jobs", self.key, what), body=body, idempotency_key=self._execution
                )
            except RecordsUnavailable as away:
                logger(__name__).warning("The job waits for Rota: %s", away)
                await asyncio.sleep(AWAY_SECONDS)

    async def interrupted(self, ended: Ended) -> None:
        """Report that its command was ended from outside, if anybody listens."""
        with suppress(RecordsError, TimeoutError):
            async with asyncio.timeout(2):  # the worker may be about to end
                await self.end(ended, None, interrupted=True)

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of its command."""
        return {
            **own,
            "ROTA_TENANT": self.tenant,
            "ROTA_JOB_ID": self.key,
            "ROTA_JOB_ATTEMPT": str(self.attempt),
        }


@flow
async def run_job(
    job: NonEmpty | None = None,
    attempt: Annotated[int, Field(ge=1)] = 1,
    records: NonEmpty = "default",
    tenant: NonEmpty | None = None,
) -> Any:
    """Run a job: a command that was queued in the table of jobs.

    Runs are made of queued jobs by `rota watch`, in order of their priority and age; nobody else
    needs to start any. The command runs in a process group of its own on the worker, and its
    output goes to this run's log. A worker runs commands only if its environment has
    ROTA_ALLOW_COMMANDS=1; one that has not leaves the job waiting for another.

    Args:
        job: The job's id.
        attempt: Which of the job's runs this is, from 1.
        records: The name of the Records block to ask and report by.
        tenant: Whose job it is, for a run that no definition made.

    """
    if job is None:
        raise NoJob("job: nobody says which. Queue a job, and `rota watch` makes a run of it.")
    if os.environ.get(ALLOWED, "").lower() not in TRUE:
        said = (
            f"It came to a worker that does not run commands, and waits for one that does. Who "
            f"starts a worker allows it with {ALLOWED}=1 in its environment."
        )
        due = datetime.now(UTC) + ELSEWHERE
        current_run, client = current()
        await start_again(
            client, current_run, Scheduled(scheduled_time=due, message=said, name=NOT_ALLOWED)
        )
    slug = tenant_of(tenant)
    book = await load(Records, records, slug)
    async with book.of(slug) as mine:
        try:
            return await _carry_out(Job(mine, slug, job, attempt))
        except RecordsRefused as refused:
            if refused.status == NOT_FOUND:
                return Cancelled(message=f"The job was deleted: {refused}")
            if refused.status == CONFLICT:
                return Cancelled(message=f"The job is another run's by now: {refused}")
            raise


async def _carry_out(job: Job) -> Any:
    told = await job.begin()
    if told.decision == "gone":
        return Cancelled(message=f"The job {told.name!r} is not this run's: {told.why}.")
    log = Log()
    get_run_logger().info("$ %s", told.command)
    ended, error = None, None
    try:
        ended = await run(
            told.command,
            environment=job.environment(told.environment),
            directory=told.directory,
            timeout_seconds=told.timeout_seconds,
            on_line=log.line,
            on_interrupted=job.interrupted,
        )
    except CannotBegin as cannot:
        error = str(cannot)
    if ended is not None and ended.timed_out:
        error = f"It took longer than {told.timeout_seconds:g} s, and was ended."
    status = await job.end(ended, error)
    return _state(told, ended, error, status)


def _state(told: Told, ended: Ended | None, error: str | None, status: str) -> Any:
    """Return how the run ends, in a line for people."""
    if status == "completed":
        return Completed(message=f"The job {told.name!r} has ended with exit code 0.")
    said = error or f"exit code {ended.exit_code if ended else 'none'}"
    last = ended.tail.rstrip().rpartition("\n")[2][:200] if ended else ""
    message = f"The job {told.name!r} has failed: {said}{f': {last}' if last else ''}"
    if status == "cancelled":
        return Cancelled(message=f"The job {told.name!r} was cancelled.")
    return Failed(message=f"{message} (it is queued again)" if status == "queued" else message)
