"""The worker: it claims runs at their instant, and runs them in its own process.

    main thread   polls, claims, beats, looks after the dead, hears signals
    flow thread   the event loop of all flows (workers.flow_loop)
    one thread    for each sync flow that is running (workers.threads)

Nothing that a flow does holds up the main thread, short of keeping Python's own lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import anyio
import httpx
from prefect._flow_run_suspension import mark_flow_run_suspension_requested
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort, ObjectNotFound, Pause
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Crashed, Pending
from prefect.types._datetime import now
from prefect.utilities.engine import propose_state
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessWorker

from workers.catalog import Catalog, InlineJobConfiguration, InlineVariables, Order
from workers.due import Due, due_at
from workers.flow_loop import BLOCKED, FlowLoop
from workers.health import health_of, serve
from workers.lease import BEAT, Lease, clock, hand_back, pause
from workers.run import Run, RunClient, Stop
from workers.settings import (
    AHEAD,
    CLEANUP,
    GATE,
    MOST,
    POLL,
    RENEW,
    STALE,
    THREADS,
    InlineSettings,
)


class InlineWorker(ProcessWorker):
    """Runs flows in its own process; those that ask for it, in one of their own."""

    type = "inline"
    job_configuration = InlineJobConfiguration
    job_configuration_variables = InlineVariables  # type: ignore[assignment]
    _display_name = "Inline"
    _description = (
        "Run flows in the worker's own process, at their instant. Fits flows that mostly wait."
    )
    _documentation_url = "https://docs.prefect.io/v3/concepts/workers"

    def __init__(self, *args: Any, grace_seconds: float | None = None, **options: Any) -> None:
        settings = InlineSettings()
        options["limit"] = options.get("limit") or settings.limit
        options["heartbeat_interval_seconds"] = int(BEAT)
        options["name"] = f"{options.get('name') or socket.gethostname()}-{secrets.token_hex(4)}"
        super().__init__(*args, **options)
        self.grace_seconds = settings.grace_seconds if grace_seconds is None else grace_seconds
        self.flows = FlowLoop(self._logger)
        self.waiting: dict[UUID, asyncio.Task[None]] = {}
        self.running: dict[UUID, Run] = {}
        self.apart: dict[UUID, Run] = {}
        self._apart_tasks: dict[UUID, asyncio.Task[None]] = {}
        self._seen: dict[UUID, float] = {}
        self.threaded: set[UUID] = set()
        self.claiming: set[UUID] = set()
        self._catalog = Catalog()
        self._gate, self._gate_apart = asyncio.Semaphore(GATE), asyncio.Semaphore(GATE)
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []

    # The parent's also hold a runner, for flows that are submitted to it, and its connection.
    __aenter__ = BaseWorker.__aenter__
    __aexit__ = BaseWorker.__aexit__

    # -- from start to end

    async def start(
        self,
        run_once: bool = False,
        with_healthcheck: bool = False,
        printer: Callable[..., None] = print,
    ) -> None:
        """Work until SIGTERM or SIGINT; with `run_once`, start what is due and wait for its end."""
        os.environ["ROTA_WORKER_PID"] = str(os.getpid())
        with serve(lambda: health_of(self), with_healthcheck):
            async with self:
                self.flows.open()
                self._lease = Lease(
                    self.client, self._work_pool_name, self.name, self._logger, self._may_restart
                )
                self._due = Due(self.client, self._work_pool_name, self._work_queues)
                with self._signals(), contextlib.suppress(asyncio.CancelledError):
                    await self._work(run_once, printer)
                await self._finish(0 if run_once else self.grace_seconds)
                self.flows.close()
            printer(f"Worker {self.name!r} stopped!")

    async def _work(self, run_once: bool, printer: Callable[..., None]) -> None:
        if run_once:
            await self._try(self._beat)
            await self._try(self._poll)
            await asyncio.gather(*self.waiting.values(), return_exceptions=True)
            await self._idle()
            return
        printer(f"Worker {self.name!r} started!")
        loops = [
            self._every(self.query_seconds, self._poll),
            self._every(POLL, self._cancel),
            self._every(BEAT, self._beat),
            self._every(BEAT, self._look),
            self._every(RENEW, self._renew),
            self._watch(),
        ]
        tasks = [asyncio.create_task(one) for one in loops]
        try:
            await self._stopping.wait()
        finally:
            # Leases and cancellations are seen to until the end.
            tasks[0].cancel()
            self._keepers = tasks[1:]

    @property
    def query_seconds(self) -> float:
        """Seconds between two polls."""
        settings = get_current_settings().worker
        return settings.query_seconds if "query_seconds" in settings.model_fields_set else POLL

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked, number)
        yield

    def _asked(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            os._exit(128 + number)
        self._logger.info(
            "Stopping: taking nothing new, waiting up to %.0f s for %s runs",
            self.grace_seconds,
            len(self.running) + len(self.apart),
        )
        self._stopping.set()

    async def _finish(self, grace: float) -> None:
        """Let runs end, then hand back those that have not."""
        self._stopping.set()
        for id_, task in self.waiting.items():
            if id_ not in self.claiming:  # a claim that is on its way is answered first
                task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle(), grace)
        # Prefect reports what is left as the interpreter exits, and waits long for a server that
        # is away.
        killer = threading.Timer(2 * CLEANUP + 5, os._exit, (0,))
        killer.daemon = True
        killer.start()
        for run in [*self.running.values()]:
            self.flows.stop(run, Stop.HAND_BACK)
        for task in [*self._apart_tasks.values()]:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle(), CLEANUP)
        left = [*self.running.values()]
        with contextlib.suppress(TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(CLEANUP):
                await asyncio.gather(*map(self._hand_back, left))
                await self._lease.give_up()
        if left:  # what cannot be interrupted must not go on beside its successor
            os._exit(0)
        for keeper in self._keepers:
            keeper.cancel()
        self._ended.set()

    async def _idle(self) -> None:
        while self.running or self.apart or self.claiming:  # noqa: ASYNC110 - many ways to end
            await asyncio.sleep(0.05)

    async def _every(self, seconds: float, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while not self._ended.is_set():
            await self._try(step)
            await pause(self._ended, seconds)

    async def _try(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Take a step; what goes wrong with one does not keep the next from being tried."""
        try:
            await step()
        except httpx.HTTPError as error:
            self._logger.warning(
                "Prefect's server does not answer (%s: %s); trying again",
                type(error).__name__,
                error,
            )
        except Exception:
            self._logger.exception("%s failed; trying again", step.__name__)

    # -- what is due

    async def _poll(self) -> None:
        if self._work_pool is None:
            await self._sync_and_initialize()
        self._last_polled_time = now("UTC")
        room = min((self._limit or 1) - len(self.running) - len(self.apart), MOST)
        if self._work_pool is None or self.work_pool.is_paused or room <= 0:
            return
        ahead = min(self._prefetch_seconds, AHEAD * self.query_seconds)
        found = await self._due.find(ahead, room, self.work_pool)
        seen = clock()
        await self._catalog.look_up(self.client, found)
        mine = self.owned()
        for run in found:
            self._seen[run.id] = seen
            if run.id not in self.waiting and run.id not in mine:
                self.waiting[run.id] = asyncio.create_task(self._at_its_time(run))
        self._seen = {id_: at for id_, at in self._seen.items() if id_ in self.waiting}

    def owned(self) -> set[UUID]:
        """Return the runs that this worker has claimed, or is about to."""
        return {*self.running, *self.apart, *self.claiming}

    async def _at_its_time(self, run: FlowRun) -> None:
        try:
            order = await self._order(run)
            await asyncio.sleep(due_at(run) - time.time())
            # Those in a process of their own do not wait for the flows' loop.
            async with (
                self._gate if isinstance(order, Exception) or order.flow else self._gate_apart
            ):
                self.claiming.add(run.id)
                try:
                    await self._begin(run, order)
                finally:
                    self.claiming.discard(run.id)
        except httpx.HTTPError as error:
            self._logger.warning("Run %s is put off: %s", run.id, error)
        except (Abort, Pause, ObjectNotFound) as error:
            self._logger.debug("Run %s is not to start: %s", run.id, error)
        except Exception:
            self._logger.exception("Run %s could not be started", run.id)
        finally:
            self.waiting.pop(run.id, None)

    async def _order(self, run: FlowRun) -> Order | Exception:
        """Return how a run is to be run, or what is wrong with its flow."""
        try:
            return await self._catalog.order(self.client, self.work_pool, run)
        except httpx.HTTPError:
            raise
        except Exception as error:
            return error

    async def _may_begin(self, run: FlowRun, order: Order | Exception) -> bool:
        await self._due.refresh(run)
        if self._stopping.is_set() or not self._due.open(run) or self.work_pool.is_paused:
            return False
        if isinstance(order, Order) and order.flow is not None:
            full = order.threaded and len(self.threaded) >= THREADS
            if full or self.flows.lag > BLOCKED:
                return False
        if clock() - self._seen.get(run.id, 0) < STALE:
            return True
        # Prefect lets a run be claimed that has ended meanwhile.
        current = (await self.client.read_flow_run(run.id)).state
        return current is not None and current.is_scheduled()

    async def _begin(self, flow_run: FlowRun, order: Order | Exception) -> None:
        if not await self._may_begin(flow_run, order):
            return
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        run = Run(
            flow_run,
            order.flow if isinstance(order, Order) else None,
            self._lease.mark,
            on_begun=partial(loop.call_soon_threadsafe, begun.set),
            in_doubt=self._lease.in_doubt,
        )
        if not await self._claim(run):
            return
        if isinstance(order, Exception):
            await self._fail(run, order)
        elif order.flow is None:
            self.apart[run.id] = run
            self._apart_tasks[run.id] = asyncio.create_task(self._run_apart(run))
        else:
            self.running[run.id] = run
            if order.threaded:
                self.threaded.add(run.id)
            run.on_ended = partial(loop.call_soon_threadsafe, self._note_end, run)
            self.flows.start(run)
            await begun.wait()

    async def _claim(self, run: Run) -> bool:
        client = RunClient(self.client, run)
        state: State[Any] = Pending(message=run.mark)
        taken = await propose_state(client, state, run.id)
        if not taken.is_pending() or taken.message != run.mark:
            return False
        run.flow_run.state = taken
        run.lease_id = taken.state_details.deployment_concurrency_lease_id
        due = taken.state_details.scheduled_time
        if due is not None and due.timestamp() - time.time() > self.query_seconds:
            await hand_back(self.client, run.flow_run, "It was put off.")
            return False
        if await self._due.overtaken(run.flow_run, self.work_pool):
            await hand_back(self.client, run.flow_run, "Its queue is paused, or at its limit.")
            return False
        return True

    async def _fail(self, run: Run, problem: Exception) -> None:
        reason = f"Its flow does not load: {type(problem).__name__}: {problem}"
        if isinstance(problem, LookupError) and not isinstance(problem, KeyError):
            state: State[Any] = Cancelled(message=f"{problem}.")
        else:
            state = Crashed(message=reason)
            self.get_flow_run_logger(run.flow_run).error(reason, exc_info=problem)
        await propose_state(self.client, state, run.id, force=True)

    async def _run_apart(self, run: Run) -> None:
        """Run a claimed run the way Prefect's process worker does."""
        flow_run = run.flow_run
        try:
            assert self._runs_task_group is not None
            async with anyio.create_task_group() as group:
                pid = await group.start(self._submit_run_and_capture_errors, flow_run)
                if pid and not isinstance(pid, Exception):
                    await self.client.update_flow_run(flow_run.id, infrastructure_pid=str(pid))
        except asyncio.CancelledError:
            if run.stopping is not Stop.LOST:
                with anyio.CancelScope(shield=True):
                    await self._hand_back(run)
            raise
        finally:
            self.apart.pop(run.id, None)
            self._apart_tasks.pop(run.id, None)

    def _note_end(self, run: Run) -> None:
        self.running.pop(run.id, None)
        self.threaded.discard(run.id)
        if run.stopping is Stop.HAND_BACK and run.state is not None and not run.state.is_final():
            self.claiming.add(run.id)
            task = asyncio.create_task(self._hand_back(run))
            task.add_done_callback(lambda _: self.claiming.discard(run.id))

    async def _hand_back(self, run: Run) -> None:
        reason = "Its worker was stopped before it had ended."
        with contextlib.suppress(Abort, ObjectNotFound, httpx.HTTPError):
            await hand_back(self.client, run.flow_run, reason)

    # -- what is under way

    async def _cancel(self) -> None:
        if not self.running:
            return
        for found in await self._due.cancelling():
            run = self.running.get(found.id)
            if run is not None and run.stopping is None:
                self.flows.stop(run, Stop.CANCEL)

    async def _beat(self) -> None:
        if self._lease.in_doubt():
            await self._look_at_own(self._lease.is_anothers)
        await self._lease.beat()
        if frequency := get_current_settings().flows.heartbeat_frequency:
            for run in [*self.running.values()]:
                run.emit_heartbeat(frequency)

    async def _look(self) -> None:
        await self._sync_and_initialize()
        await self._look_at_own()
        await self._lease.look_after(self.owned)

    async def _look_at_own(self, is_anothers: Callable[[FlowRun], Any] | None = None) -> None:
        """Stop what has become another worker's, or was ended or deleted; tell the suspended."""
        runs = self.running | self.apart
        ids = sorted(runs)
        for start in range(0, len(ids), MOST):
            some = ids[start : start + MOST]
            found = await self.client.read_flow_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=some)), limit=MOST
            )
            there = {one.id: one for one in found}
            for id_ in some:
                one = there.get(id_)
                if one is None or one.state is None:
                    self._lose(runs[id_])
                elif id_ in self.apart and one.state.is_final():
                    continue  # its process is about to end
                elif runs[id_].is_lost_in(one) or (
                    # Its process has given it a state that bears no mark.
                    is_anothers and id_ in self.apart and await is_anothers(one)
                ):
                    self._lose(runs[id_])
                elif one.state.name == "Suspended":
                    mark_flow_run_suspension_requested(id_, one.state)

    def _lose(self, run: Run) -> None:
        if run.id in self.running:
            self.flows.stop(run, Stop.LOST)
        elif (task := self._apart_tasks.get(run.id)) is not None:
            run.stopping = Stop.LOST
            task.cancel()

    async def _renew(self) -> None:
        for run in [*self.running.values()]:
            if run.lease_id is not None:
                try:
                    await self.client.renew_concurrency_lease(run.lease_id, 5 * RENEW)
                except httpx.HTTPStatusError as error:
                    self.get_flow_run_logger(run.flow_run).warning(
                        "Its concurrency slot is lost, another run may start beside it: %s", error
                    )
                    run.lease_id = None

    async def _watch(self) -> None:
        while not self._ended.is_set():
            self.flows.watch()
            await pause(self._ended, POLL)

    async def _may_restart(self, run: FlowRun) -> bool:
        await self._catalog.look_up(self.client, [run])
        try:
            return (await self._catalog.order(self.client, self.work_pool, run)).restart
        except httpx.HTTPError:
            raise
        except LookupError:
            return False
        except Exception:
            return True  # its flow does not load here; whoever claims it will say so
