"""How long a change of one row takes until Prefect has its new runs."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg
import orjson

from benchmarks.processes import BenchmarkError, running
from benchmarks.servers import Servers

PATIENCE_SECONDS = 30.0
"""How long to wait for one edit; one that takes longer counts as never."""

# The runs are new when they have the new parameters and the new minute, and none is old. (What is
# overdue, for nobody works here, stays as it is.)
THERE = """
    select coalesce(bool_and(run.parameters ->> 'workflow_id' = $2
        and extract(minute from run.expected_start_time) = $3), false)
    from flow_run run join deployment on deployment.id = run.deployment_id
    where deployment.name = $1 and run.state_type = 'SCHEDULED' and run.auto_scheduled
        and run.expected_start_time > now()
"""


@dataclass(frozen=True)
class Latencies:
    """Seconds from each edit's commit until its new runs were in Prefect, ascending."""

    seconds: list[float]

    def percentile(self, share: float) -> float:
        """Return the smallest that `share` of the edits did not exceed."""
        return self.seconds[max(0, -(-len(self.seconds) * round(share * 100) // 100) - 1)]


async def measure_edits(servers: Servers, watch: list[str], count: int, seed: int) -> Latencies:
    """Edit `count` random rows, one after the other, beside a running `watch`.

    Raises:
        BenchmarkError: `watch` ended, or did not begin to follow.
    """
    rota, prefect = await servers.rota(), await servers.prefect()
    chance = random.Random(seed)
    log = servers.directory / "watch.log"
    try:
        names = await rota.fetch("select tenant, name from definitions order by tenant, name")
        chosen = [chance.choice(names) for _ in range(count)]
        seconds = []
        env = {**servers.environment(), "ROTA_SWEEP_SECONDS": "300"}
        with running(watch, env, log) as process:
            await _wait_until_it_follows(rota)
            for number, row in enumerate(chosen):
                # Not in step with any of the servers' loops.
                await asyncio.sleep(chance.uniform(0.2, 1))
                seconds.append(await _edit(rota, prefect, row, number, chance.randrange(60)))
                if process.poll() is not None:
                    raise BenchmarkError(f"watch ended: {log.read_text()[-2000:]}")
        return Latencies(sorted(seconds))
    finally:
        await rota.close()
        await prefect.close()


async def _wait_until_it_follows(rota: asyncpg.Connection) -> None:
    deadline = time.monotonic() + 120
    settled = (
        "select exists (select from marks where name = 'sweep') "
        "and not exists (select from changes)"
    )
    while not await rota.fetchval(settled):
        if time.monotonic() > deadline:
            raise BenchmarkError("watch has not dealt with what there was after 120 s")
        await asyncio.sleep(0.1)


async def _edit(
    rota: asyncpg.Connection,
    prefect: asyncpg.Connection,
    row: Mapping[str, str],
    number: int,
    minute: int,
) -> float:
    workflow = f"edit-{number}"
    await rota.execute(
        "update definitions set cron = $3, timezone = 'UTC', "
        "parameters = parameters || $4::jsonb where (tenant, name) = ($1, $2)",
        row["tenant"],
        row["name"],
        f"{minute} * * * *",
        orjson.dumps({"workflow_id": workflow}).decode(),
    )
    committed = time.perf_counter()
    name = f"{row['tenant']}.{row['name']}"
    while (waited := time.perf_counter() - committed) < PATIENCE_SECONDS:
        if await prefect.fetchval(THERE, name, workflow, minute):
            return time.perf_counter() - committed
        await asyncio.sleep(0.005 if waited < 1 else 0.02)
    return float("inf")
