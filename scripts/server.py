"""Starting Prefect's server, with what makes it slow mended."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import sys
import threading
import time
import zoneinfo
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import orjson
from jsonschema import validators

PROJECT = Path(__file__).resolve().parent.parent

TURN_SECONDS = 10.0
"""How long a write waits for its turn before it tries without."""

GARBAGE = (20_000, 50, 100)
"""How many new objects, and how many smaller collections, make a collection of each generation."""


def serve(host: str, port: int) -> None:
    """Run Prefect's server in this process until it is told to stop."""
    prepare()
    if (PROJECT / "prefect.toml").exists():
        os.chdir(PROJECT)  # Prefect reads `prefect.toml` from the working directory only.
    sys.argv = ["prefect", "server", "start", "--host", host, "--port", str(port)]
    from prefect.cli import app

    take_turns()
    keep_the_ended()
    collect_apart()
    app()


def prepare() -> None:
    """Mend what makes the server slow, before anything of Prefect's is imported.

    Prefect lists all time zones whenever it validates a schedule, and reads the whole zone
    database to do so: about half of the server's time. The list does not change while a process
    lives. Of the other half, a third goes into checking that schemas are schemas, the same few
    four times for each deployment that is written.

    Prefect takes these functions by name as it is imported, so this comes first.
    """
    zoneinfo.available_timezones = functools.cache(zoneinfo.available_timezones)
    create = validators.create
    validators.create = lambda *args, **options: _remembering(create(*args, **options))
    _remembering(validators.Draft202012Validator)


def take_turns() -> None:
    """Let the server's writes to SQLite wait for one another in order.

    SQLite lets one transaction write at a time. Whoever finds it busy sleeps and tries again, and
    under load the same ones come too late for up to a minute, which is how long they try. A
    transaction that waits for another of its own making, or for longer than `TURN_SECONDS`, goes
    ahead and leaves it to SQLite.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction
    queues: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
    has_turn: ContextVar[bool] = ContextVar("has-turn", default=False)

    @asynccontextmanager
    async def in_turn(self: Any, session: Any, with_for_update: bool = False) -> AsyncIterator[Any]:
        queue = queues.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        mine = False
        if not has_turn.get():
            with suppress(TimeoutError):
                mine = await asyncio.wait_for(queue.acquire(), TURN_SECONDS)
        token = has_turn.set(True)
        try:
            async with begin(self, session, with_for_update) as transaction:
                yield transaction
        finally:
            has_turn.reset(token)
            if mine:
                queue.release()

    AioSqliteConfiguration.begin_transaction = in_turn  # type: ignore[method-assign]


def collect_apart() -> None:
    """Collect garbage in a thread of its own, and seldom.

    At its own settings, Python's collector goes through what the server keeps in memory again and
    again. And among the garbage are cursors, which statements leave behind that failed or were
    cancelled; one that is collected is reset, and waits for its connection, which may be waiting
    to write. If the thread that so waits is the event loop's, the transaction that is writing
    cannot go on either, and the server answers nobody until SQLite gives up, after a minute.
    """
    gc.disable()

    def collect() -> None:
        while True:
            time.sleep(0.05)
            made = gc.get_count()
            for generation in (2, 1, 0):
                if made[generation] > GARBAGE[generation]:
                    gc.collect(generation)
                    break

    threading.Thread(target=collect, name="garbage", daemon=True).start()


def keep_the_ended() -> None:
    """Refuse the claim of a run that has ended.

    Prefect refuses a second claim, but not one that comes after the end: of a worker that was
    frozen, say, while another claimed the run and ended it.
    """
    import prefect.server.models  # noqa: F401 - or the next would be imported in a circle
    from prefect.server.orchestration.core_policy import PreventPendingTransitions
    from prefect.server.schemas.states import StateType

    ended = {StateType.COMPLETED, StateType.FAILED, StateType.CRASHED}
    PreventPendingTransitions.FROM_STATES = PreventPendingTransitions.FROM_STATES | ended


def _remembering(validator: Any) -> Any:
    """Let a class of validators check each schema once; only those that pass are remembered."""
    check = validator.check_schema

    @functools.lru_cache(maxsize=1000)
    def check_text(text: bytes, **options: Any) -> None:
        check(orjson.loads(text), **options)

    def check_schema(schema: Any, **options: Any) -> None:
        try:
            text = orjson.dumps(schema)
        except TypeError:  # not what JSON can say, so it did not come from the API
            check(schema, **options)
        else:
            check_text(text, **options)

    validator.check_schema = staticmethod(check_schema)
    return validator
