"""The event loop that flows run on, in a thread of its own."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import logging
import sys
import threading
import time
import traceback
from collections.abc import Coroutine, Generator
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from prefect.client.orchestration import PrefectClient
from prefect.context import AsyncClientContext
from prefect.logging.loggers import flow_run_logger, print_as_log

from workers.run import Run, Stop, execute

TICK = 0.1
BLOCKED = 2.0
"""Seconds without a tick after which the loop counts as blocked."""
REPEAT = 30.0
"""Seconds after which a run that blocks the loop, or does not stop, is named again."""

_current: contextvars.ContextVar[Run | None] = contextvars.ContextVar("rota-run", default=None)

_AROUND = tuple(
    str(Path(module.__file__).parent)
    for module in (asyncio, sys.modules["prefect"], sys.modules["anyio"])
    if module.__file__
)
"""What stands between the loop and a flow's own code."""


class FlowLoop:
    """Runs flows, and sees that whoever blocks the others is named."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._logger = logger
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._owners: WeakKeyDictionary[asyncio.Task[Any], Run] = WeakKeyDictionary()
        self._context = contextvars.copy_context()
        self._client: PrefectClient | None = None
        self._ticked = time.monotonic()
        self._named: tuple[Run | None, float] = (None, 0.0)
        self._closed: asyncio.Event | None = None
        self.longest_lag = 0.0
        self._thread = threading.Thread(target=self._work, name="flows", daemon=True)

    def open(self) -> None:
        """Start the thread, with the settings of the caller."""
        # For good: each run with `log_prints` would put it in place and take it away again, also
        # from those that have begun since. Outside of such runs it prints.
        builtins.print = print_as_log
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        """End the thread, if it can be ended; call it after the last run."""
        if self._closed is not None:
            self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join(timeout=5)

    def start(self, run: Run) -> None:
        """Execute a run."""
        self._loop.call_soon_threadsafe(self._start, run, context=self._context.copy())

    def stop(self, run: Run, why: Stop) -> None:
        """Interrupt a run; its cleanup takes place, for as long as that takes."""
        self._loop.call_soon_threadsafe(self._stop, run, why)

    @property
    def lag(self) -> float:
        """Seconds by which the loop is behind at the moment."""
        return max(0.0, time.monotonic() - self._ticked - TICK)

    def watch(self) -> None:
        """Name the run that blocks the loop, if one does. Called about once a second."""
        lag = self.lag
        self.longest_lag = max(self.longest_lag, lag)
        if lag < BLOCKED:
            self._named = (None, 0.0)
            return
        task = asyncio.current_task(self._loop)
        run = self._owners.get(task) if task is not None else None
        now = time.monotonic()
        if self._named[0] is run and now - self._named[1] < REPEAT:
            return
        self._named = (run, now)
        where = stack_of(self._thread.ident)
        logger = flow_run_logger(run.flow_run) if run is not None else self._logger
        logger.warning(
            "%s has blocked the event loop for %.1f s, and delays every other flow; make it "
            "await, make it sync, or set the job variable isolation to process. It stands at\n%s",
            f"Run {run.flow_run.name!r} ({run.id})" if run is not None else "A flow",
            lag,
            where,
        )

    # -- in the thread

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_task_factory(self._task)
        main = self._context.run(self._loop.create_task, self._main())
        while not main.done():
            try:
                self._loop.run_until_complete(main)
            except BaseException as error:
                # asyncio lets SystemExit and KeyboardInterrupt of any task end the loop.
                self._logger.warning("A flow's task raised %r past the event loop", error)

    async def _main(self) -> None:
        self._closed = asyncio.Event()
        async with AsyncClientContext() as context:
            self._client = context.client
            # The runs' contexts descend from this one, which knows the client by now.
            self._context = contextvars.copy_context()
            ticking = asyncio.create_task(self._tick())
            self._ready.set()
            await self._closed.wait()
            ticking.cancel()

    async def _tick(self) -> None:
        while True:
            self._ticked = time.monotonic()
            await asyncio.sleep(TICK)

    def _task(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        if (run := _current.get()) is not None:
            self._owners[task] = run
        return task

    def _start(self, run: Run) -> None:
        assert self._client is not None
        _current.set(run)
        run.task = self._loop.create_task(execute(run, self._client), name=run.flow_run.name)
        run.task.add_done_callback(lambda _: run.on_begun())
        run.task.add_done_callback(lambda _: run.on_ended())

    def _stop(self, run: Run, why: Stop) -> None:
        run.stop(why)
        if run.task is not None and not run.task.done():
            self._loop.call_later(REPEAT, self._insist, run, why)

    def _insist(self, run: Run, why: Stop) -> None:
        if run.task is not None and not run.task.done():
            flow_run_logger(run.flow_run).warning(
                "The run was to be %s %.0f s ago, and still runs", why.value, REPEAT
            )
            self._stop(run, why)


def stack_of(ident: int | None) -> str:
    """Return where a thread stands, from the outermost call of a flow's own code inwards."""
    frame: FrameType | None = sys._current_frames().get(ident or 0)
    stack = list(traceback.walk_stack(frame))[::-1]
    own = [
        number
        for number, (one, _) in enumerate(stack)
        if not one.f_code.co_filename.startswith((*_AROUND, str(Path(__file__).parent)))
    ]
    # Above the loop stand the interpreter's own threading functions.
    first = next((n for n in own if "threading" not in stack[n][0].f_code.co_filename), 0)
    return "".join(traceback.StackSummary.extract(iter(stack[first:])).format()).rstrip()
