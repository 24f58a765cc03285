"""A tenant's records over the real API, and a workflow service that goes away and comes back."""

import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from blocks import WorkflowService
from tests.actions.conftest import Reply, Seen, Target, replied
from tests.actions.conftest import target as target
from tests.prefect.conftest import pytest_configure as pytest_configure
from tests.vps.conftest import log as log
from tests.vps.conftest import rota as rota
from tests.vps.serving import Rota
from tests.workers.conftest import new_yard as new_yard

PATH = "/api/workflow/wf/execute"
KEY = "circuit/workflow-service/default"


@dataclass
class Service:
    """A workflow service that answers 503 while it is away; otherwise as `answers` say, or 202."""

    target: Target
    away: bool = False
    answers: list[Reply] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    _numbers: Any = field(default_factory=itertools.count)

    @property
    def calls(self) -> int:
        return self.target.times(PATH)

    def answer(self, seen: Seen) -> Reply:
        if self.away:
            return replied({"error": "not now"}, 503)
        if self.answers:
            return self.answers.pop(0)
        self.keys.append(seen.headers["idempotency-key"])
        return replied({"executionId": f"e{next(self._numbers)}"}, 202)


@pytest.fixture
async def service(target: Target, prefect_server: str) -> AsyncIterator[Service]:
    service = Service(target)
    target.answers[PATH] = service.answer
    block = WorkflowService(base_url=target.url, put_off_seconds=1)
    await block.asave("default", overwrite=True)
    yield service
    await WorkflowService.adelete("default")


async def kept(rota: Rota) -> dict[str, Any] | None:
    """Reads the circuit's checkpoint."""
    rows = await rota.rows(
        "select value from checkpoints where tenant = $1 and key = $2", rota.tenant, KEY
    )
    found: dict[str, Any] | None = json.loads(rows[0]["value"]) if rows else None
    return found
