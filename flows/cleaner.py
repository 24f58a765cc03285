"""The duty that forgets: runs beyond those that are kept, and old records."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.context import FlowRunContext
from prefect.states import Completed
from pydantic import BaseModel, Field

from blocks.records import Records, TenantRecords
from flows.blocks_by_name import load
from flows.old_runs import AT_ONCE, PAGE, Kept, OldRuns
from flows.tenancy import tenant_of

NonEmpty = Annotated[str, Field(min_length=1, max_length=200)]

OWNER = "rota:"
"""How the tag begins that all runs of one Rota have."""

KINDS = ("dead_letters", "notices", "incidents", "server_changes", "jobs", "action_runs")


class _Definition(BaseModel):
    id: UUID
    deployment_id: UUID | None
    keep_runs: int = Field(ge=1)
    run_count: int = Field(ge=0)

    def kept(self) -> Kept:
        return Kept(str(self.deployment_id) if self.deployment_id else None, self.keep_runs)


@flow
async def cleaner(
    keep_hours: Annotated[float, Field(ge=1, le=87_600)] = 24,
    records_days: Annotated[float, Field(ge=1, le=36_500)] = 30,
    records: NonEmpty = "default",
    tenant: NonEmpty | None = None,
) -> dict[str, Any]:
    """Delete from Prefect what nobody needs any longer of a tenant's runs, and old records.

    Of each definition the latest runs stay, as many as its `keep_runs` says, and all that ended
    within `keep_hours`. The others go with their task runs, logs and artifacts; runs that have not
    ended are left alone. So do old runs of definitions that are gone, and runs of a deployment that
    a definition had before its present one count among its own. Dead letters keep by
    themselves what a replay needs. Dead letters that were replayed or discarded, notices, resolved
    incidents, changes of servers, jobs that have ended and what runs of actions have recorded go
    after `records_days`.

    Killed at any moment, and run again, it goes on where it was.

    Args:
        keep_hours: Runs that ended within so many hours stay.
        records_days: Records that are done with since so many days go.
        records: The name of the Records block to work through.
        tenant: Whose runs and records, for a run that no definition made.

    """
    slug, now = tenant_of(tenant), datetime.now(UTC)
    book, before = await load(Records, records, slug), now - timedelta(hours=keep_hours)
    looked_at, definitions = 0, dict[str, Kept]()
    async with book.of(slug) as mine, OldRuns.than(before) as old:
        async for page in mine.pages("retention", size=PAGE):
            some = [_Definition.model_validate(one) for one in page]
            looked_at += await _clean(old, some)
            definitions |= {str(one.id): one.kept() for one in some}
        orphans = await _clean_former(old, slug, definitions)
        forgotten = await _forget(mine, records_days)
    counts = {
        "definitions": len(definitions),
        "looked_at": looked_at,
        **old.counts,
        "orphans": orphans,
        **forgotten,
    }
    summary = f"{counts['runs']} runs deleted, {sum(forgotten.values())} records forgotten."
    get_run_logger().info(summary, extra={"action": "cleaner", "counts": counts})
    return Completed(data=counts, message=summary)  # type: ignore[return-value]


async def _clean(old: OldRuns, some: list[_Definition]) -> int:
    """Clean the definitions that have had more runs than they keep; return how many."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(definition: _Definition) -> None:
        async with turns:
            await old.clean(str(definition.deployment_id), definition.keep_runs)

    many = [one for one in some if one.deployment_id and one.run_count > one.keep_runs]
    async with asyncio.TaskGroup() as group:
        for definition in many:
            group.create_task(one(definition))
    return len(many)


async def _clean_former(old: OldRuns, tenant: str, definitions: dict[str, Kept]) -> int:
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    owners = [tag for tag in (run.tags if run else ()) if tag.startswith(OWNER)]
    if len(owners) != 1:
        return 0  # no definition made this run, so nothing says which runs are Rota's
    return await old.clean_former(owners[0], tenant, definitions)


async def _forget(mine: TenantRecords, days: float) -> dict[str, int]:
    total = dict.fromkeys(KINDS, 0)
    more = True
    while more:
        gone = await mine.post("retention", "forget", body={"days": days})
        total = {kind: total[kind] + int(gone[kind]) for kind in KINDS}
        more = bool(gone["more"])
    return total
