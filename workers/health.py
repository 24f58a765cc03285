"""How a worker fares, over HTTP."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from prefect.settings import get_current_settings
from prefect.types._datetime import now
from pydantic import BaseModel

if TYPE_CHECKING:
    from workers.inline import InlineWorker


STUCK = 60.0
"""Seconds of lag after which the flows' loop counts as stuck for good."""


class Health(BaseModel):
    """What `/health` answers, with 200, or 503 where `healthy` is false.

    Times are in UTC, durations in seconds.
    """

    healthy: bool
    worker: str
    running: int
    claimed: int
    waiting: int
    last_poll: datetime
    seconds_since_poll: float
    loop_lag_seconds: float
    longest_loop_lag_seconds: float


def health_of(worker: InlineWorker) -> Health:
    """Return how the worker fares."""
    polled = (now("UTC") - worker._last_polled_time).total_seconds()
    return Health(
        healthy=polled < 30 * worker.query_seconds and worker.flows.lag < STUCK,
        worker=worker.name,
        running=len(worker.running) + len(worker.apart),
        claimed=len(worker.claiming),
        waiting=len(worker.waiting),
        last_poll=worker._last_polled_time,
        seconds_since_poll=round(polled, 1),
        loop_lag_seconds=round(worker.flows.lag, 3),
        longest_loop_lag_seconds=round(worker.flows.longest_lag, 3),
    )


@contextlib.contextmanager
def serve(health: Callable[[], Health], wanted: bool) -> Iterator[None]:
    """Answer at `/health` for as long as the context lasts, where Prefect's workers do.

    `prefect worker start --with-healthcheck` begins to answer before it knows which kind of
    worker it starts; its server is then taught to say more.
    """
    if (app := _prefects_own()) is not None:
        _teach(app, health)
        yield
    elif wanted:
        with _own(health):
            yield
    else:
        yield


def _teach(app: FastAPI, health: Callable[[], Health]) -> None:
    def answer() -> JSONResponse:
        found = health()
        message = "OK" if found.healthy else "Worker may be unresponsive at this time"
        content = {"message": message, **found.model_dump(mode="json")}
        return JSONResponse(content, status_code=200 if found.healthy else 503)

    app.add_api_route("/health", answer, methods=["GET"])
    app.router.routes.insert(0, app.router.routes.pop())  # before the one that says less


def _prefects_own() -> FastAPI | None:
    for thread in threading.enumerate():
        if thread.name == "healthcheck-server-thread":
            server = getattr(getattr(thread, "_target", None), "__self__", None)
            app = server.config.app if isinstance(server, uvicorn.Server) else None
            if isinstance(app, FastAPI):
                return app
    return None


@contextlib.contextmanager
def _own(health: Callable[[], Health]) -> Iterator[None]:
    app = FastAPI()
    _teach(app, health)
    where = get_current_settings().worker.webserver
    config = uvicorn.Config(app, where.host, where.port, log_level="error", loop="asyncio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=5)
