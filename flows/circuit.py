"""The circuit of a workflow service: while it cannot be reached, runs are put off, not burnt.

    closed     no checkpoint    every run calls
    open       until > now      no run calls; each is put off until then, and a little longer
    half open  until <= now     one run takes the try and calls once; the others are put off

The checkpoint is the tenant's: `circuit/workflow-service/` and the block's name.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, cast

from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Scheduled
from prefect.utilities.engine import propose_state
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from blocks.outgoing import BACKOFF, Backoff, logger
from blocks.records import Records, RecordsError, RecordsRefused, TenantRecords
from blocks.workflow_service import (
    WorkflowAnswerUnusable,
    WorkflowRefused,
    WorkflowService,
    WorkflowServiceUnavailable,
)
from flows.blocks_by_name import MissingBlock, load
from flows.tenancy import own_tenant

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

PUT_OFF_LABEL = "rota.put_off"
"""How often a run has been put off. These are no attempts."""

LONGEST = timedelta(minutes=10)
GIVE_UP_AFTER = timedelta(days=1)
"""How long after it was due first a run is put off no more."""
RECORDS_SECONDS = 5.0
"""For so long Rota is waited for: it only advises, and workflows start without it."""
ENDING = timedelta(seconds=10)
"""What a try may take beyond its deadline until its end is recorded."""
EARLY = timedelta(seconds=0.5)
"""So much before its time Prefect may start a run."""
FURTHEST = LONGEST + ENDING
"""What is open for longer was written by a clock that is wrong, or by hand, and does not count."""
SAID = 1000
"""Characters of an error that are kept."""
SPREAD = 0.2
"""By which part of their wait runs are drawn apart."""

NOT_FOUND, CONFLICT = 404, 409

T = TypeVar("T")

_random = random.SystemRandom()


class PutOff(Exception):
    """The service is not called now; says why, and when to come again.

    Attributes:
        due: When; UTC.

    """

    def __init__(self, why: str, due: datetime) -> None:
        super().__init__(why)
        self.due = due


class _Once(Backoff):
    """No second try."""

    def wait(self, tries: int, left: float, retry_after: float | None = None) -> float | None:
        return None


_Instant = Annotated[
    AwareDatetime,
    Field(ge=datetime(1900, 1, 1, tzinfo=UTC), le=datetime(9000, 1, 1, tzinfo=UTC)),
]


class _Kept(BaseModel):
    """What stands at the checkpoint."""

    since: _Instant
    until: _Instant
    times: int = Field(ge=1, le=10**9)
    trying: bool = False
    error: str = ""

    def holds(self, at: datetime) -> bool:
        """Whether nobody calls at this instant."""
        return at < self.until <= at + FURTHEST


@dataclass(frozen=True)
class _Found:
    kept: _Kept
    written: str
    """When, as Rota says it: by this it tells whether somebody else has written since."""


@dataclass(frozen=True)
class Circuit:
    """The circuit of one block, for one tenant.

    Attributes:
        records: The tenant's records.
        service: The block's name.
        seconds: How long it is open at first.
        clock: Tells the time; UTC and aware.
        spread: A number from 0 to 1 for each run, so that they do not come back as one.

    """

    records: TenantRecords
    service: str
    seconds: float
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    spread: Callable[[], float] = _random.random

    @property
    def key(self) -> str:
        """The name of its checkpoint."""
        return f"circuit/workflow-service/{self.service}"

    async def through(self, call: Callable[[Backoff], Awaitable[T]], deadline_seconds: float) -> T:
        """Call the service if the circuit lets it, and note what came of it.

        Args:
            call: Calls the service; is told when to try again.
            deadline_seconds: After how long it gives up.

        Raises:
            PutOff: The service is not called, or could not be reached.
            WorkflowServiceError: It did not start the workflow; that it could not be reached only
                where Rota cannot be either.

        """
        try:
            found = await self._read()
            if found is not None:
                await self._take(found, deadline_seconds)
        except RecordsError as error:
            _warn("Rota does not say whether %s is away: %s", self.service, error)
            return await call(BACKOFF)
        try:
            done = await call(BACKOFF if found is None else _Once())
        except WorkflowServiceUnavailable as away:
            later = await self._opened(away)
            if later is None:
                raise
            raise later from away
        except (WorkflowRefused, WorkflowAnswerUnusable):
            await self._close(found)  # it is there
            raise
        await self._close(found)
        return done

    async def _take(self, found: _Found, deadline_seconds: float) -> None:
        """Take the try, which is one run's only, and lapses if that run dies."""
        at, kept = self.clock(), found.kept
        if kept.holds(at):
            raise self._put_off(kept, at)
        until = at + timedelta(seconds=min(deadline_seconds, LONGEST.total_seconds())) + ENDING
        taken = kept.model_copy(update={"until": until, "trying": True})
        try:
            await self._write(taken, found.written)
        except RecordsRefused as refused:
            if refused.status != CONFLICT:
                raise
            raise self._put_off(taken, at) from None  # another was faster

    async def _opened(self, away: WorkflowServiceUnavailable) -> PutOff | None:
        """Open the circuit, or leave it open for longer; return what puts the run off."""
        try:
            found = await self._read()
            at = self.clock()
            kept = found.kept if found else None
            if kept is None or kept.trying or not kept.holds(at):
                kept = self._longer(kept, at, str(away))
                await self._write(kept)
        except RecordsError as error:
            _warn("It cannot be noted that %s is away: %s", self.service, error)
            return None
        return self._put_off(kept, at)

    def _longer(self, before: _Kept | None, at: datetime, error: str) -> _Kept:
        times = before.times + 1 if before else 1
        wait = min(timedelta(seconds=self.seconds * 2 ** min(times - 1, 20)), LONGEST)
        since = before.since if before else at
        return _Kept(since=since, until=at + wait, times=times, error=error[:SAID])

    async def _close(self, found: _Found | None) -> None:
        if found is None:
            return
        try:
            await self.records.delete("checkpoints", self.key)
        except RecordsError as error:
            _warn("It cannot be noted that %s is back: %s", self.service, error)

    def _put_off(self, kept: _Kept, at: datetime) -> PutOff:
        wait = kept.until - at
        if kept.trying:  # which ends soon, one way or another
            wait = min(wait, timedelta(seconds=self.seconds))
        due = at + wait + max(EARLY, wait * SPREAD * self.spread())
        tries = f"{kept.times} {'try' if kept.times == 1 else 'tries'}"
        return PutOff(
            f"The workflow service {self.service} has been away since {_shown(kept.since)} "
            f"({tries}). {kept.error[:SAID]}".strip(),
            due,
        )

    async def _read(self) -> _Found | None:
        try:
            found = await self.records.get("checkpoints", self.key)
        except RecordsRefused as refused:
            if refused.status != NOT_FOUND:
                raise
            return None
        try:
            return _Found(_Kept.model_validate(found["value"]), str(found["updated_at"]))
        except (ValidationError, TypeError, KeyError):
            _warn("The checkpoint %s is not that of a circuit; it is passed over.", self.key)
            return None

    async def _write(self, kept: _Kept, replaces: str | None = None) -> None:
        body = {"value": kept.model_dump(mode="json"), "replaces": replaces}
        await self.records.put("checkpoints", self.key, body=body)


@asynccontextmanager
async def circuit_of(
    block: WorkflowService, service: str, records: str
) -> AsyncIterator[Circuit | None]:
    """Open the circuit of a block for the current run's tenant.

    Without a Records block there is none, nor for a run that no definition made.

    Args:
        block: The block.
        service: Its name.
        records: The name of the Records block.

    """
    tenant = own_tenant()
    if tenant is None:
        yield None
        return
    try:
        book = await load(Records, records, tenant)
    except MissingBlock:
        yield None
        return
    hasty = book.model_copy(update={"deadline_seconds": RECORDS_SECONDS})
    async with hasty.of(tenant) as mine:
        yield Circuit(mine, service, block.put_off_seconds)


def current() -> tuple[FlowRun, "PrefectClient"]:
    """Return the current run and its own client: the worker in whose process it runs answers it."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run, cast("PrefectClient", context.client)


async def put_off(why: PutOff, at: datetime) -> NoReturn:
    """End the current run here, for a worker to start it again when that is due.

    It stays the same run, of the same occurrence, and is given back the attempt that it has used.

    Args:
        why: What its state shall say, and when it is due.
        at: Now.

    Raises:
        Pause: The run has been put off. To Prefect's engine it means that the flow has ended, and
            the run has not.
        WorkflowServiceUnavailable: It has been put off for a day, or no worker would start it.

    """
    run, client = current()
    first_due = run.expected_start_time
    if run.deployment_id is None or first_due is None:
        raise WorkflowServiceUnavailable(str(why)) from why
    if at - first_due >= GIVE_UP_AFTER:
        raise WorkflowServiceUnavailable(
            f"{why} The run was due at {_shown(first_due)}, and is not put off any more."
        ) from why
    said = f"Put off until {_shown(why.due)}. {why}"
    await start_again(client, run, Scheduled(scheduled_time=why.due, message=said))


async def start_again(client: "PrefectClient", run: FlowRun, state: State[Any]) -> NoReturn:
    """End the current run here with a scheduled state, by which a worker starts it again.

    Raises:
        Pause: Always.

    """
    await _give_back(client, run)
    raise Pause(state.message, state=await propose_state(client, state, run.id))


async def _give_back(client: "PrefectClient", run: FlowRun) -> None:
    """Let the start that is about to be wasted not count against the run's retries."""
    policy = run.empirical_policy
    if policy.retries:
        # Prefect counts the starts. One that waits in its own process is nobody else's to start.
        policy = policy.model_copy(update={"retries": policy.retries + 1, "retry_type": None})
        await client.update_flow_run(run.id, empirical_policy=policy)
    before = put_off_so_far(run.labels)
    await client.update_flow_run_labels(run.id, {PUT_OFF_LABEL: before + 1})


def put_off_so_far(labels: Mapping[str, Any]) -> int:
    """Return how often a run has been put off."""
    times = labels.get(PUT_OFF_LABEL)
    return times if isinstance(times, int) else 0


def _shown(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _warn(said: str, *values: object) -> None:
    logger(__name__).warning(said, *values, extra={"action": "circuit"})
