"""The deployments of the comparison, in the forms that both sides read: SQL rows and YAML."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import yaml

from benchmarks.servers import POOL

DUTY = "workflow_run"
ENTRYPOINT = f"flows.{DUTY}.{DUTY}"
TENANTS = [f"tenant-{number}" for number in range(10)]
ZONES = ("UTC", "Europe/Berlin", "America/New_York")


@dataclass(frozen=True)
class Sample:
    """One periodic duty: a fifth is due every 15 minutes, two fifths hourly, two fifths daily."""

    tenant: str
    name: str
    cron: str
    timezone: str
    parameters: dict[str, Any]
    tags: list[str]


def samples(count: int, since: int = 0) -> Iterator[Sample]:
    """Yield `count` samples, the same ones at every call, from the number `since` on."""
    for number in range(since, since + count):
        minute, hour = number * 7 % 60, number * 11 % 24
        yield Sample(
            tenant=TENANTS[number % len(TENANTS)],
            name=f"duty-{number:05}",
            cron=("*/15 * * * *", f"{minute} * * * *", f"{minute} {hour} * * *")[
                (number * 2 % 5 + 1) // 2
            ],
            timezone=ZONES[number % len(ZONES)],
            parameters={
                "workflow_id": f"workflow-{number}",
                "input": {"batch": number, "dataset": "orders", "limits": [10, 100]},
            },
            tags=["nightly", f"team-{number % 7}"],
        )


async def insert(connection: asyncpg.Connection, chosen: Iterator[Sample]) -> None:
    """Write samples as rows, by the plain SQL that anybody would write."""
    await connection.executemany(
        "insert into tenants (slug) values ($1) on conflict do nothing",
        [(tenant,) for tenant in TENANTS],
    )
    await connection.executemany(
        "insert into definitions (tenant, name, duty, cron, timezone, parameters, tags) "
        f"values ($1, $2, '{DUTY}', $3, $4, $5, $6)",
        [
            (
                one.tenant,
                one.name,
                one.cron,
                one.timezone,
                orjson.dumps(one.parameters).decode(),
                one.tags,
            )
            for one in chosen
        ],
    )


def write_project(directory: Path, chosen: Iterator[Sample]) -> None:
    """Write samples as the project that `prefect deploy --all` reads."""
    deployments = [
        {
            "name": f"{one.tenant}.{one.name}",
            "entrypoint": ENTRYPOINT,
            "parameters": one.parameters,
            "tags": one.tags,
            "schedules": [{"cron": one.cron, "timezone": one.timezone, "slug": "definition"}],
            "work_pool": {"name": POOL, "work_queue_name": one.tenant},
        }
        for one in chosen
    ]
    project = {"name": "benchmark", "pull": None, "deployments": deployments}
    (directory / "prefect.yaml").write_text(yaml.safe_dump(project, sort_keys=False))
