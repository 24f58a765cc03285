"""What the tests against a real Prefect server share."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun


def pytest_configure(config: pytest.Config) -> None:
    # Every flow run reads the server's default result storage with a client that Prefect does not
    # close (`prefect/results.py`). The garbage collector finds its socket in any later test.
    config.addinivalue_line("filterwarnings", "ignore:unclosed <socket.socket:ResourceWarning")


@dataclass(frozen=True)
class Deployed:
    """A duty with a deployment such as Rota makes, due daily at noon in Berlin."""

    duty: Any
    parameters: dict[str, Any] = field(default_factory=dict)

    definition_id = "0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"
    occurrence = datetime(2024, 11, 20, 11, tzinfo=UTC)

    async def manual_run(self) -> FlowRun:
        async with get_client() as client:
            return await client.create_flow_run_from_deployment(await self._deploy(client))

    async def scheduled_run(self) -> FlowRun:
        """Has the server make the run of a past day, as its scheduler would have."""
        window = {
            "start_time": (self.occurrence - timedelta(hours=1)).isoformat(),
            "end_time": (self.occurrence + timedelta(hours=1)).isoformat(),
        }
        async with get_client() as client:
            deployment_id = await self._deploy(client)
            made = await client._client.post(f"/deployments/{deployment_id}/schedule", json=window)
            made.raise_for_status()
            [run] = await client.read_flow_runs(
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
                flow_run_filter=FlowRunFilter(
                    expected_start_time=FlowRunFilterExpectedStartTime(before_=self.occurrence)
                ),
            )
            return run

    async def _deploy(self, client: PrefectClient) -> UUID:
        document = {
            "flow_id": str(await client.create_flow(self.duty)),
            "name": f"acme.{uuid4()}",
            "parameters": self.parameters,
            "labels": {"rota.definition": self.definition_id, "rota.reference": "acme/noon"},
            "schedules": [{"schedule": {"cron": "0 12 * * *", "timezone": "Europe/Berlin"}}],
        }
        # The client's own method does not take labels.
        created = await client._client.post("/deployments/", json=document)
        created.raise_for_status()
        return UUID(created.json()["id"])


@pytest.fixture
def deployed(prefect_server: str) -> type[Deployed]:
    return Deployed
