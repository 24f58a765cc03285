"""A small workflow service to try the `workflow_run` duty with.

It takes orders and remembers them; it executes nothing. What it remembers is in memory.

Usage:
    python -m examples.workflow_service --port 8089

Options:
    --host, --port: Where to listen.
    WORKFLOW_SERVICE_TOKEN: The bearer token that callers must send; none if unset.
"""

import argparse
import hmac
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import uuid4

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Response
from pydantic import BaseModel

# Older executions are forgotten with their keys: a key that comes back after so many others
# starts a second execution.
MAX_EXECUTIONS = 10_000


class Order(BaseModel):
    """What a caller sends to start a workflow."""

    input: dict[str, Any]


class Started(BaseModel):
    """What a caller gets back."""

    executionId: str
    status: str = "running"


@dataclass
class Execution:
    """One execution, and how often it was asked for."""

    execution_id: str
    key: str
    workflow_id: str
    input: dict[str, Any]
    received_at: datetime
    tries: int = 0


@dataclass
class Executions:
    """The latest executions by idempotency key, oldest first."""

    limit: int = MAX_EXECUTIONS
    by_key: OrderedDict[str, Execution] = field(default_factory=OrderedDict)

    def start(self, key: str, workflow_id: str, order: Order, at: datetime) -> Execution:
        """Return the execution with this key, after starting it if there is none."""
        if key not in self.by_key:
            self.by_key[key] = Execution(str(uuid4()), key, workflow_id, order.input, at)
            if len(self.by_key) > self.limit:
                self.by_key.popitem(last=False)
        self.by_key[key].tries += 1
        return self.by_key[key]

    def latest(self, count: int) -> list[Execution]:
        """Return executions, newest first."""
        return list(reversed(self.by_key.values()))[:count]


def create_app(token: str | None = None) -> FastAPI:
    """Make the service, with no executions yet.

    Args:
        token: The bearer token that every call but the health check must carry, if any.

    """
    executions = Executions()
    api = APIRouter(prefix="/api", dependencies=[Depends(_token_check(token))])

    @api.post("/workflow/{workflow_id:path}/execute", status_code=202)
    async def execute(
        workflow_id: str,
        order: Order,
        idempotency_key: Annotated[str, Header(min_length=1, max_length=255)],
        response: Response,
    ) -> Started:
        execution = executions.start(idempotency_key, workflow_id, order, at=datetime.now(UTC))
        if execution.tries > 1:
            response.status_code = 200
        return Started(executionId=execution.execution_id)

    @api.get("/executions")
    async def list_executions(
        count: Annotated[int, Query(ge=1, le=MAX_EXECUTIONS)] = MAX_EXECUTIONS,
    ) -> list[Execution]:
        return executions.latest(count)

    app = FastAPI(title="Example workflow service")
    app.include_router(api)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _token_check(token: str | None) -> Any:
    expected = f"Bearer {token}".encode()

    async def check(authorization: Annotated[str, Header()] = "") -> None:
        if token and not hmac.compare_digest(authorization.encode(), expected):
            raise HTTPException(401, "The token is missing or wrong.")

    return check


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description="A small workflow service to try Rota with.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8089)
    options = parser.parse_args()
    app = create_app(os.environ.get("WORKFLOW_SERVICE_TOKEN") or None)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
