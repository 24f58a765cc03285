"""The duty that runs an action: a graph of steps, one way through it."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from pydantic import BaseModel, Field

from blocks.addresses import Allowed
from blocks.records import Records, RecordsRefused, TenantRecords
from flows.blocks_by_name import load
from flows.circuit import PutOff, put_off
from flows.occurrence import Occurrence, current_occurrence
from flows.step_kinds import Call, do
from flows.step_rules import following
from flows.step_values import Unfit, as_json, filled, storable_text, unstorable
from flows.tenancy import tenant_of

NonEmpty = Annotated[str, Field(min_length=1, max_length=200)]

MOST_BYTES = 256 * 1024
"""What a step may take in, and what it may put out, as JSON."""
ERROR_CHARACTERS = 2000
LOGGED_CHARACTERS = 8000


class ActionFailed(Exception):
    """A step of the action failed."""


class _Step(BaseModel):
    name: str
    kind: str
    input: dict[str, Any]
    timeout_seconds: float
    retries: int
    retry_delay_seconds: int
    next: list[dict[str, Any]]


class _Done(BaseModel):
    step: str
    output: Any
    next: str | None


class _Begun(BaseModel):
    first: str
    steps: list[_Step]
    done: list[_Done]
    allowed_addresses: list[str]


@flow
async def run_action(
    action: NonEmpty,
    input: dict[str, Any] | None = None,
    records: NonEmpty = "default",
    tenant: NonEmpty | None = None,
) -> Any:
    """Run the steps of an action, one after another, as its rules lead.

    Each step is a task, whose log shows its input and its output. A step that fails fails the run,
    which says which and why. The run may be taken up again, by Retry in Prefect's UI, by the
    definition's retries, or by another worker after one that has died: it goes on with the first
    step that has not been completed, and with the action as it is by then.

    Args:
        action: The action's name.
        input: What templates can read as `input`.
        records: The name of the Records block that leads to Rota.
        tenant: The tenant whose action it is, for a run that no definition made.

    """
    occurrence = current_occurrence()
    slug = tenant_of(tenant)
    block = await load(Records, records, slug)
    async with block.of(slug) as mine:
        run = ("actions", action, "runs", str(occurrence.run_id))
        begun = _Begun.model_validate(await mine.put(*run, body=None))
        walk = _Walk(mine, run, slug, occurrence, begun, input or {})
        way = await walk.walk()
    # Prefect unpacks the state for the caller; the state's message is what its UI shows.
    return Completed(data=walk.outputs[way[-1]], message=f"Steps completed: {', '.join(way)}.")


@dataclass
class _Attempt:
    """What a step that is being done has come to.

    Attributes:
        input: What it took.
        output: What it put out.
        error: Why it failed, as far as it could say so.
        final: Whether another try would end the same way.
        put_off: Why it is to be done later, if so.
    """

    input: Any = None
    output: Any = None
    error: str | None = None
    final: bool = False
    put_off: PutOff | None = None


@dataclass
class _Walk:
    """One way through the steps."""

    mine: TenantRecords
    run: tuple[str, ...]
    tenant: str
    occurrence: Occurrence
    begun: _Begun
    input: Mapping[str, Any]
    outputs: dict[str, Any] = field(default_factory=dict)

    async def walk(self) -> list[str]:
        """Go from the first step to the last; return their names."""
        steps = {one.name: one for one in self.begun.steps}
        done = {one.step: one for one in self.begun.done}
        way: list[str] = []
        before: State[Any] | None = None
        name: str | None = self.begun.first
        while name is not None:
            if name in way or name not in steps:
                raise ActionFailed(
                    f"The step {name} is next, and not there any more: the action was changed. "
                    "Start another run."
                )
            way.append(name)
            if name in done:
                get_run_logger().info("The step %s was completed before.", name)
                self.outputs[name], name = done[name].output, done[name].next
            else:
                name, before = await self._step(steps[name], before)
        return way

    async def _step(self, step: _Step, before: State[Any] | None) -> tuple[str | None, State[Any]]:
        """Do a step as a task; return the name of the next, and how it ended."""
        attempt = _Attempt()
        await self._record(step, {"status": "running"})
        state = await self._task(step, attempt)(
            return_state=True, wait_for=[before] if before is not None else None
        )
        if attempt.put_off:
            await self._put_off(step, attempt.put_off)
        if not state.is_completed():
            await self._fail(step, attempt, attempt.error or self._too_late(step))
        self.outputs[step.name] = attempt.output
        try:
            # A pattern may take long, and others run in this process.
            name = await asyncio.to_thread(following, step.next, attempt.output)
        except Unfit as unfit:
            await self._fail(step, attempt, str(unfit))
        said = {"input": attempt.input, "output": attempt.output, "next": name}
        try:
            await self._record(step, {"status": "completed", **said})
        except RecordsRefused as refused:
            await self._fail(step, attempt, f"what it put out cannot be recorded: {refused}")
        return name, state

    async def _fail(self, step: _Step, attempt: _Attempt, why: str) -> NoReturn:
        why = storable_text(why)[:ERROR_CHARACTERS]
        said = {"status": "failed", "error": why}
        try:
            await self._record(step, {**said, "input": attempt.input})
        except RecordsRefused:  # the run has no room for it
            await self._record(step, said)
        raise ActionFailed(f"The step {step.name} failed: {why}")

    async def _put_off(self, step: _Step, why: PutOff) -> NoReturn:
        said = storable_text(str(why))[:ERROR_CHARACTERS]
        await self._record(step, {"status": "failed", "error": said})
        await put_off(why, datetime.now(UTC))

    @staticmethod
    def _too_late(step: _Step) -> str:
        return f"it took more than {step.timeout_seconds:g} s"

    def _task(self, step: _Step, attempt: _Attempt) -> Any:
        async def carry_out() -> None:
            attempt.error = None
            try:
                attempt.input = _kept(await filled(step.input, self._context()), "take in")
                get_run_logger().info("Input: %s", as_json(attempt.input)[:LOGGED_CHARACTERS])
                output = await do(step.kind, attempt.input, self._call(step))
                attempt.output = _kept(output, "put out")
                get_run_logger().info("Output: %s", as_json(output)[:LOGGED_CHARACTERS])
            except Exception as error:
                attempt.error = str(error) or type(error).__name__
                attempt.put_off = error if isinstance(error, PutOff) else None
                attempt.final = isinstance(error, Unfit | PutOff)
                raise

        return task(
            name=step.name,
            task_run_name=step.name,
            description=f"A step of the kind {step.kind}.",
            timeout_seconds=step.timeout_seconds,
            retries=step.retries,
            retry_delay_seconds=step.retry_delay_seconds,
            retry_condition_fn=lambda *_: not attempt.final,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(carry_out)

    def _context(self) -> dict[str, Any]:
        return {
            "steps": {name: {"output": one} for name, one in self.outputs.items()},
            "input": dict(self.input),
            "occurrence": {
                "time": self.occurrence.time,
                "trigger": self.occurrence.trigger,
                "definition": self.occurrence.reference,
            },
        }

    def _call(self, step: _Step) -> Call:
        return Call(
            self.tenant,
            self.occurrence,
            f"{self.occurrence.idempotency_key}:{step.name}",
            step.timeout_seconds,
            Allowed.of(self.begun.allowed_addresses),
            self.mine,
        )

    async def _record(self, step: _Step, said: Mapping[str, Any]) -> None:
        await self.mine.put(*self.run, "steps", step.name, body={"kind": step.kind, **said})


def _kept(value: Any, what: str) -> Any:
    """Return a value that can be recorded."""
    if why := unstorable(value):
        raise Unfit(f"It would {what} what cannot be recorded: {why}")
    size = len(json.dumps(value).encode())
    if size > MOST_BYTES:
        raise Unfit(f"It would {what} {size:,} bytes, and a step may {what} {MOST_BYTES:,}")
    return value
