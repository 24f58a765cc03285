"""One run in this process, and its way through Prefect's engine."""

from __future__ import annotations

import asyncio
import copy
import functools
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import httpx
from prefect import Flow
from prefect._flow_run_suspension import (
    FlowRunSuspensionRequest,
    register_flow_run_suspension_request,
)
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.objects import FlowRun, FlowRunPolicy, State
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import Abort, ObjectNotFound, Pause
from prefect.flow_engine import (
    AsyncFlowRunEngine,
    _flow_parameters,  # pyright: ignore[reportPrivateUsage]
)
from prefect.logging.loggers import flow_run_logger
from prefect.results import get_result_store
from prefect.states import Cancelled, Cancelling, Crashed, to_state_create
from prefect.utilities.callables import call_with_parameters

from workers.threads import in_thread

MARK = "On worker "
"""How the message of a state begins that a worker of this kind has given."""

HOOKS = (
    "on_running_hooks",
    "on_completion_hooks",
    "on_failure_hooks",
    "on_cancellation_hooks",
    "on_crashed_hooks",
)

AGAIN = 1.0
"""Seconds between two attempts to reach a server that is away."""


class Stop(Enum):
    """Why a run is stopped before its end."""

    CANCEL = "cancelled"
    HAND_BACK = "handed back"
    LOST = "lost"  # it is another worker's by now, or gone


@dataclass(eq=False)
class Run:
    """One run, from its claim to its end.

    Attributes:
        flow_run: The run as Prefect has it; the engine keeps it current.
        flow: What it executes, bound to the policies of its definition.
        mark: The message of its states, by which other workers know whose it is.
        on_begun: Called once it is Running, or has ended without.
        on_ended: Called once it has ended here, one way or another.
        in_doubt: Whether this worker may have been taken for dead since it was last heard.
    """

    flow_run: FlowRun
    flow: Flow[..., Any] | None
    mark: str
    on_begun: Callable[[], object] = lambda: None
    on_ended: Callable[[], object] = lambda: None
    in_doubt: Callable[[], bool] = lambda: False
    lease_id: uuid.UUID | None = None
    task: asyncio.Task[None] | None = None
    stopping: Stop | None = None
    entered: bool = False
    """Whether its execution has begun."""
    reporting: bool = False
    """Whether its end is on the way to the server, and must not be interrupted."""
    heard: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> uuid.UUID:
        """The run's id."""
        return self.flow_run.id

    @property
    def state(self) -> State[Any] | None:
        """The state that the server last gave it."""
        return self.flow_run.state

    def is_lost_in(self, found: FlowRun) -> bool:
        """Whether what the server has says that the run is not this worker's, or has ended."""
        state = found.state
        if state is None or state.is_final():
            # Its end may have been answered just now.
            return self.state is None or not self.state.is_final()
        if state.is_scheduled():
            return found.empirical_policy.retry_type != "in_process"
        return self._is_anothers(state)

    def _is_anothers(self, state: State[Any]) -> bool:
        """Whether another worker's mark stands in the state; resuming a paused run leaves none."""
        message = state.message or ""
        return message.startswith(MARK) and message != self.mark

    def emit_heartbeat(self, seconds: float) -> None:
        """Send the event by which Prefect's automations know that a run lives, when it is due."""
        if time.monotonic() - self.heard < seconds:
            return
        self.heard = time.monotonic()
        about = {"flow": self.flow_run.flow_id, "deployment": self.flow_run.deployment_id}
        emit_event(
            "prefect.flow-run.heartbeat",
            resource={
                "prefect.resource.id": f"prefect.flow-run.{self.id}",
                "prefect.resource.name": self.flow_run.name,
            },
            related=[
                {"prefect.resource.id": f"prefect.{kind}.{id_}", "prefect.resource.role": kind}
                for kind, id_ in about.items()
                if id_ is not None
            ],
        )

    def stop(self, why: Stop) -> None:
        """Interrupt the flow, unless its end is being reported. Called on the flows' loop.

        A task that is cancelled before its first step would never take one.
        """
        self.stopping = self.stopping or why
        if self.task is not None and self.entered and not self.reporting:
            self.task.cancel()


class RunClient(PrefectClient):
    """Prefect's client as one run uses it: the shared connection, and no call without need."""

    def __init__(self, shared: PrefectClient, run: Run) -> None:
        # Not the parent's, which would open a connection of its own.
        self.__dict__.update(shared.__dict__)
        self._run = run

    async def read_flow_run(self, flow_run_id: uuid.UUID) -> FlowRun:
        """Answer for the run itself from what is known of it: each answer has told its state."""
        if flow_run_id == self._run.id:
            return self._run.flow_run
        return await super().read_flow_run(flow_run_id)

    async def update_flow_run(
        self,
        flow_run_id: uuid.UUID,
        flow_version: str | None = None,
        parameters: dict[str, Any] | None = None,
        name: str | None = None,
        tags: Any = None,
        empirical_policy: FlowRunPolicy | None = None,
        infrastructure_pid: str | None = None,
        job_variables: dict[str, Any] | None = None,
    ) -> httpx.Response:
        """Tell the server of the retries, which it counts; without any there is nothing to tell.

        A run that waits for its next attempt is Scheduled, and one without an infrastructure is
        then cancelled at once, without asking whoever waits.
        """
        if flow_run_id == self._run.id and empirical_policy is not None:
            if not empirical_policy.retries:
                return httpx.Response(204)
            infrastructure_pid = self._run.mark
        return await super().update_flow_run(
            flow_run_id,
            flow_version,
            parameters,
            name,
            tags,
            empirical_policy,
            infrastructure_pid,
            job_variables,
        )

    async def set_flow_run_state(
        self, flow_run_id: uuid.UUID | str, state: State[Any], force: bool = False
    ) -> OrchestrationResult[Any]:
        """Propose a state, however long the server stays away.

        An answer may be lost after the state was taken: the transition carries one id through all
        attempts, by which the server knows it again.

        Raises:
            Lost: The run is this worker's no more.
            ObjectNotFound: It was deleted.
        """
        body = to_state_create(state)
        body.state_details.flow_run_id = self._run.id
        body.state_details.transition_id = uuid.uuid4()
        content = {"state": body.model_dump(mode="json", serialize_as_any=True), "force": force}
        while True:
            try:
                if self._run.in_doubt():
                    await self._confirm()
                response = await self.request(
                    "POST",
                    "/flow_runs/{id}/set_state",
                    path_params={"id": flow_run_id},
                    json=content,
                )
                return OrchestrationResult.model_validate(response.json())
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.NOT_FOUND:
                    raise ObjectNotFound(error) from error
                if not _passes(error.response.status_code):
                    raise
            except httpx.TransportError:
                pass
            await asyncio.sleep(AGAIN)

    async def _confirm(self) -> None:
        """See that no other worker has taken the run while this one was not heard."""
        found = await super().read_flow_run(self._run.id)
        known, state = self._run.state, found.state
        if known is None or state is None or state.id == known.id or state.is_cancelling():
            return
        if self._run.is_lost_in(found):
            self._run.stopping = Stop.LOST
            raise Lost


class Lost(asyncio.CancelledError):
    """The run has been taken from this worker."""


def _passes(status: int) -> bool:
    """Whether an answer speaks of the server's condition, not of the request."""
    return status >= 500 or status in (408, 429)


@dataclass
class Engine(AsyncFlowRunEngine[Any, Any]):
    """Prefect's engine without what it starts for each run.

    Heartbeats, leases and the watch for suspension are the worker's, for all runs at once; what
    Prefect makes a thread and a connection each.
    """

    run: Run = field(kw_only=True)
    run_client: RunClient = field(kw_only=True)

    @property
    def client(self) -> PrefectClient:
        """The shared connection."""
        return self.run_client

    @property
    def heartbeat_seconds(self) -> int | None:
        """None: the worker sends them."""
        return None

    @contextmanager
    def setup_flow_run_suspension_request(self) -> Iterator[FlowRunSuspensionRequest]:
        """Let the worker tell the flow that it has been suspended."""
        request = self._flow_run_suspension_request
        with register_flow_run_suspension_request(self.run.id, request):
            yield request

    async def set_state(self, state: State[Any], force: bool = False) -> State[Any]:
        """Propose a state, and keep the run as the server would answer it."""
        if self.run.stopping is Stop.HAND_BACK and state.is_failed():
            raise asyncio.CancelledError  # it failed for being interrupted
        if state.is_running():
            state.message = self.run.mark
        self.run.reporting = state.is_final()
        try:
            taken = await super().set_state(state, force)
        finally:
            self.run.reporting = False
        if taken.is_running():
            self._begun(taken)
        elif state.is_final() and not taken.is_final() and self.run.stopping is not None:
            raise asyncio.CancelledError  # asked for meanwhile: there is no next attempt
        return taken

    def _begun(self, state: State[Any]) -> None:
        assert self.flow_run is not None
        self.flow_run.run_count += 1
        if self.flow_run.start_time is None:
            self.flow_run.start_time = state.timestamp  # type: ignore[assignment]
        # The engine would keep the lease alive by itself.
        self.run.lease_id = state.state_details.deployment_concurrency_lease_id
        state.state_details = state.state_details.model_copy(
            update={"deployment_concurrency_lease_id": None}
        )
        self.run.on_begun()

    async def call_flow_fn(self) -> Any:
        """Call the flow, and report what it returns."""
        called: Any = call_with_parameters(self.flow.fn, self.parameters or {})
        result = await called
        await self.handle_success(result)
        return result

    async def call_hooks(self, state: State[Any] | None = None) -> None:
        """Call what the flow wants called, where `prefect.runtime` knows the run."""
        assert self.flow_run is not None
        if FlowRunContext.get() is not None or not _hooks_of(self.flow):
            return await super().call_hooks(state)
        with FlowRunContext(
            flow=self.flow,
            flow_run=self.flow_run,
            parameters=self.parameters,
            client=self.client,
            task_runner=self.flow.task_runner,
            result_store=await get_result_store().aupdate_for_flow(self.flow),
        ):
            return await super().call_hooks(state)

    async def handle_crash(self, exc: BaseException) -> None:
        """Report a crash, unless the flow ended because it was told to."""
        if self.run.stopping is None:
            await super().handle_crash(exc)
        elif self.run.stopping is Stop.CANCEL:
            await self.cancelled()
        self._raised = exc  # type: ignore[assignment]

    async def cancelled(self) -> None:
        """Bring the run from Cancelling, where the server has it, to Cancelled."""
        await self.call_hooks(Cancelling())
        await self.set_state(Cancelled(message="The run was cancelled."), force=True)


async def execute(run: Run, shared: PrefectClient) -> None:
    """Execute a claimed run to its end, whatever it raises."""
    logger = flow_run_logger(run.flow_run)
    client = RunClient(shared, run)
    assert run.flow is not None
    run.entered = True
    try:
        if run.stopping is not None:
            if run.stopping is Stop.CANCEL:
                cancelled: State[Any] = Cancelled(message="The run was cancelled.")
                taken = await client.set_flow_run_state(run.id, cancelled, force=True)
                run.flow_run.state = taken.state
            return
        engine = Engine(
            flow=run.flow,
            flow_run=run.flow_run,
            parameters=_flow_parameters(run.flow, run.flow_run, None),
            run=run,
            run_client=client,
        )
        async with engine.start():
            while engine.is_running():
                async with engine.run_context():
                    await engine.call_flow_fn()
        if engine.state.is_cancelling():
            await engine.set_state(Cancelled(message="The run was cancelled."), force=True)
    except (Abort, Pause) as signal:
        logger.info("The run ends here: %s", signal)
    except ObjectNotFound:
        logger.info("The run was deleted while it ran")
    except BaseException as error:
        await _last_word(run, client, error)
    finally:
        run.task = None  # or the two would keep each other, and the result


async def _last_word(run: Run, client: RunClient, error: BaseException) -> None:
    """Report what the engine could not: it raises what a flow raised, reported or not."""
    state = run.state
    if run.stopping is not None or state is None or state.is_final():
        return
    reason = f"{type(error).__name__}: {error}"
    flow_run_logger(run.flow_run).error("The engine failed: %s", reason, exc_info=error)
    try:
        crashed: State[Any] = Crashed(message=f"The engine failed: {reason}")
        run.flow_run.state = (await client.set_flow_run_state(run.id, crashed, force=True)).state
    except (httpx.HTTPError, ObjectNotFound, Lost):
        return


def inline(flow: Flow[..., Any]) -> Flow[..., Any]:
    """Return `flow` such that nothing of it holds up the loop: what is not async runs in a thread.

    Its function is called with the run's context, so that tasks, loggers and `prefect.runtime`
    work there as in any flow.
    """
    bound = copy.copy(flow)
    if not flow.isasync:
        bound.fn = in_thread(_as_sync(flow.fn, flow))
        bound.isasync = True
    for name in HOOKS:
        hooks = [
            hook if _is_async(hook) else in_thread(_as_sync(hook, flow))
            for hook in getattr(flow, name)
        ]
        setattr(bound, name, hooks)
    return bound


def _as_sync(function: Callable[..., Any], flow: Flow[..., Any]) -> Callable[..., Any]:
    """Let Prefect see a sync flow around `function`, so that its own functions return values.

    Many of them return coroutines where the flow of the context is async.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if (context := FlowRunContext.get()) is None:
            return function(*args, **kwargs)
        sync = copy.copy(flow)
        sync.isasync = False
        with context.model_copy(update={"flow": sync}):
            return function(*args, **kwargs)

    return call


def _hooks_of(flow: Flow[..., Any]) -> list[Any]:
    return [hook for name in HOOKS for hook in getattr(flow, name)]


def _is_async(hook: Callable[..., Any]) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return asyncio.iscoroutinefunction(hook)


__all__ = ["Run", "RunClient", "Stop", "execute", "inline"]
