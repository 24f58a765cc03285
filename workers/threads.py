"""Blocking functions, awaited: each in a thread of its own, which can be interrupted."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

import anyio

P = ParamSpec("P")
T = TypeVar("T")


class Interrupted(BaseException):
    """Raised in a thread whose function is to stop.

    Not an `Exception`, so that `except Exception` does not swallow it; `finally` and `with` do
    their work.
    """


def in_thread(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a coroutine function that calls `function` in a thread, with the caller's context.

    Cancelling it raises `Interrupted` there, as soon as the thread executes Python again: a call
    into C, such as one long `time.sleep`, ends first. The coroutine waits until the thread is
    done, so that nothing goes on unseen.
    """

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        thread = _Thread(functools.partial(function, *args, **kwargs))
        asked: BaseException | None = None
        done = asyncio.wrap_future(thread.future)
        while not done.done():
            try:
                # anyio repeats a cancellation until it is heeded; here it has been.
                with anyio.CancelScope(shield=asked is not None):
                    await asyncio.wait({done})
            except asyncio.CancelledError as cancelled:
                asked = cancelled
                thread.interrupt()
        if asked is not None and isinstance(done.exception(), Interrupted):
            raise asked
        result: T = done.result()
        return result

    return call


class _Thread:
    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self._function = function
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._interruptible = True
        # A daemon, so that one that cannot be interrupted does not hold up the worker's exit.
        self._thread = threading.Thread(target=self._run, name="flow", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        outcome: Callable[[], Any] | None = None
        while self._interruptible:  # for an interruption may come at any line
            try:
                if outcome is None:
                    outcome = self._outcome()
                with self._lock:
                    self._interruptible = False
                    _raise_in(threading.get_ident(), None)
            except Interrupted as late:
                outcome = outcome or functools.partial(self.future.set_exception, late)
        assert outcome is not None
        outcome()

    def _outcome(self) -> Callable[[], None]:
        try:
            result = self._context.run(self._function)
        except StopIteration as error:  # neither a future nor a coroutine can carry it
            wrong = RuntimeError("The function raised StopIteration")
            wrong.__cause__ = error
            return functools.partial(self.future.set_exception, wrong)
        except BaseException as error:
            return functools.partial(self.future.set_exception, error)
        return functools.partial(self.future.set_result, result)

    def interrupt(self) -> None:
        """Raise `Interrupted` in the thread, unless its function has ended."""
        with self._lock:
            if self._interruptible and self._thread.ident is not None:
                _raise_in(self._thread.ident, Interrupted)


def _raise_in(ident: int, error: type[BaseException] | None) -> None:
    raised = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), raised)
