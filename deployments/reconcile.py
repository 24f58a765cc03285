"""Definitions and Prefect are brought together: the wiring of the other modules.

1. The definitions are read from the store, all of them or those of some notes.
2. `desired` makes specs of them, and problems of those that cannot be carried out.
3. `current` reads what Prefect holds of the same.
4. `plan` compares the two, and `policy` takes away what may not be done.
5. Notes are made of what is to be written, before the first write.
6. `apply` writes, and then has the future runs made from the notes' instant on.
7. The rows' status columns are written, and the notes deleted that were dealt with.
8. A little later, what was updated is looked at once more: see `settle`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from deployments import current
from deployments.apply import Outcome, Since, apply, in_bulk
from deployments.desired import Desired, Rules, Wanted, desired, missed_once
from deployments.duties import discover
from deployments.gateway import Gateway, PrefectRefused
from deployments.plan import Changes, Plan, calculate
from deployments.policy import Policy, sync
from deployments.settle import remove_stale
from deployments.spec import Deployed
from store import changes as notes
from store import roster, status, tenants
from store.changes import Look, Work
from store.models import Definition
from store.roster import Roster
from store.settings import Settings

logger = logging.getLogger("rota")

MANY = 1000
"""From so many noted definitions on, a sweep costs less than reading them by name."""


@dataclass(frozen=True)
class Comparison:
    """What is wanted beside what is there, and what follows.

    Attributes:
        roster: The definitions that were compared.
        desired: What they ask for.
        plan: What there is to do, the policy's part of it only.
        taken: Definitions whose deployment's name belongs to somebody else, by id.
        deployed: The owned deployment of each definition, by the definition's id.
    """

    roster: Roster
    desired: Desired
    plan: Plan
    taken: Mapping[str, str]
    deployed: Mapping[str, Deployed]

    @property
    def problems(self) -> Mapping[str, str]:
        """Every reason for which a definition is not carried out, by its id."""
        return {**self.desired.problems, **self.taken}


@dataclass(frozen=True)
class Report:
    """What a reconciliation did."""

    comparison: Comparison
    outcomes: tuple[Outcome, ...] = ()

    @property
    def unfinished(self) -> list[Outcome]:
        """What is worth trying again."""
        return [outcome for outcome in self.outcomes if outcome.again]


class Reconciler:
    """Compares and applies, for `watch`, the command line and the flow alike."""

    def __init__(
        self,
        engine: AsyncEngine,
        gateway: Gateway,
        settings: Settings,
        policy: Policy = sync,
    ) -> None:
        self.engine = engine
        self.gateway = gateway
        self.settings = settings
        self.policy = policy
        self.duties, self.broken = discover()
        self._setting = asyncio.Lock()
        self._heeded: dict[str, bool] = {}

    # -- everything

    async def compare(self, at: datetime | None = None) -> Comparison:
        """Compare all definitions with all owned deployments, at `at` (UTC; now if left out)."""
        found = await roster.read(self.engine)
        there = await current.owned(self.gateway, found.instance)
        return await self._compare(found, there, at or datetime.now(UTC))

    async def sweep(
        self,
        announce: Callable[[Comparison], None] = lambda comparison: None,
        progress: Callable[[Outcome], None] = lambda outcome: None,
        noted: Work | None = None,
    ) -> Report:
        """Mend every difference, and report it.

        Args:
            noted: Notes so many that a sweep is the quickest way to deal with them.
            announce: Is told what there is to do, before it is done.
            progress: Is told of each change what became of it.
        """
        async with notes.exclusively(self.engine):
            comparison = await self.compare()
            announce(comparison)
            work = await notes.note(self.engine, "drift", _subjects(comparison.plan.changes))
            work = work.joined_with(noted) if noted else work
            if noted:
                await self._stop_or_go(noted.tenants)
            await self._hold_suspended(comparison.roster)
            return await self._carry_out(comparison, work, progress)

    # -- what was noted

    async def deal_with(self, work: Work) -> Report:
        """Deal with the definitions and tenants that `work` names."""
        async with notes.exclusively(self.engine):
            return await self._deal_with(work)

    async def _deal_with(self, work: Work) -> Report:
        # By name as well: a note may be of a definition that another has taken the name of.
        found = await roster.read(self.engine, list(work.since), work.tenants, work.names)
        await self._stop_or_go(work.tenants)
        names = {f"{tenant}.{name}" for tenant, name in work.names}
        names |= {f"{one.tenant}.{one.name}" for one in found.definitions}
        there = await current.named(self.gateway, found.instance, names)
        comparison = await self._compare(
            found,
            [one for one in there if one.owned],
            datetime.now(UTC),
            taken=[one for one in there if not one.owned],
        )
        report = await self._carry_out(comparison, work)
        if any(one.tenant in found.suspended for one in found.definitions):
            await self._hold_suspended(found)  # a new definition may have brought its queue
        return report

    # -- both

    async def _compare(
        self,
        found: Roster,
        there: list[Deployed],
        at: datetime,
        taken: list[Deployed] | None = None,
    ) -> Comparison:
        wants = desired(found.definitions, await self._rules(found), at)
        plan = calculate(wants.specs, there, wants.problems.keys())
        plan = replace(plan, changes=self.policy(plan.changes))
        if taken is None:
            named = await current.named(
                self.gateway, found.instance, [spec.name for spec in plan.changes.create]
            )
            taken = [one for one in named if not one.owned]
            # Pages shift when somebody deletes a deployment while they are read.
            if missed := [one for one in named if one.owned]:
                there = there + missed
                plan = calculate(wants.specs, there, wants.problems.keys())
                plan = replace(plan, changes=self.policy(plan.changes))
        plan, conflicts = _without_taken(plan, taken)
        deployed = {one.spec.definition_id: one for one in there}
        return Comparison(found, wants, plan, conflicts, deployed)

    async def _rules(self, found: Roster) -> Rules:
        return Rules(
            instance=found.instance,
            duties=self.duties,
            broken=self.broken,
            work_pools=(await self.gateway.work_pools()).keys(),
            work_pool=self.settings.work_pool,
            suspended=found.suspended,
        )

    async def _carry_out(
        self,
        comparison: Comparison,
        work: Work,
        progress: Callable[[Outcome], None] = lambda outcome: None,
    ) -> Report:
        now = datetime.now(UTC)

        def since(definition_id: str) -> datetime:
            began = work.since.get(UUID(definition_id), now)
            schedule = comparison.desired.wanted[definition_id].schedule
            return min(began, missed_once(rows[definition_id], schedule) or began)

        rows = {str(one.id): one for one in comparison.roster.definitions}
        outcomes = await apply(
            comparison.plan.changes,
            self.gateway,
            since,
            concurrency=self.settings.concurrency,
            progress=progress,
        )
        report = Report(comparison, tuple(outcomes))
        await self._make_up(comparison, work)
        await self._record(report, now)
        failed = {outcome.definition_id for outcome in report.unfinished}
        await notes.finish(
            self.engine,
            [note for note, about in work.notes.items() if str(about) not in failed],
            self._looks(report, work, since),
        )
        return report

    async def _make_up(self, comparison: Comparison, work: Work) -> None:
        """Look once more at what was written before, and has not changed since.

        Its writer may have died before it had the runs made that the write dropped, or the
        scheduler may have put back runs of the version before.
        """
        written = {
            one.id: one
            for one in comparison.plan.unchanged
            if UUID(one.spec.definition_id) in work.resumed
        }
        if not written:
            return
        since = {key: work.since[UUID(one.spec.definition_id)] for key, one in written.items()}
        stale = await remove_stale(self.gateway, list(written.values()), since)
        turns = asyncio.Semaphore(self.settings.concurrency)

        async def make_runs(key: str) -> None:
            async with turns:
                await self.gateway.make_runs(key, since[key])

        unsettled = (
            key
            for key, one in written.items()
            if one.spec.schedules and not one.spec.paused
            if key in stale or UUID(one.spec.definition_id) not in work.settling
        )
        await asyncio.gather(*map(make_runs, unsettled))

    def _looks(self, report: Report, work: Work, since: Since) -> list[Look]:
        """Return what is to be looked at once more.

        An update soon, and again at the end; what was created in bulk at once, for its runs.
        """
        last = timedelta(seconds=self.settings.settle_seconds)
        done = [outcome for outcome in report.outcomes if not outcome.error]
        updated = {UUID(one.definition_id) for one in done if one.action == "update"}
        created = {UUID(one.definition_id) for one in done if one.action == "create"}
        bulk = in_bulk(report.comparison.plan.changes)
        looks = []
        for one in report.comparison.roster.definitions:
            who = (one.tenant, one.name, one.id)
            if bulk and one.id in created:
                looks.append(Look("create", *who, since(str(one.id)), work.at))
            elif last and one.id in updated | (work.resumed - work.settling):
                looks.append(Look(notes.SETTLE, *who, work.at, work.at + last / 6))
            elif last and one.id in work.settling and work.at - work.since[one.id] < last / 2:
                began = work.since[one.id]
                looks.append(Look(notes.SETTLE, *who, began, began + last))
        return looks

    async def _record(self, report: Report, now: datetime) -> None:
        comparison = report.comparison
        problems = dict(comparison.problems)
        ids = {key: one.id for key, one in comparison.deployed.items()}
        written = {outcome.definition_id for outcome in report.outcomes if not outcome.error}
        for outcome in report.outcomes:
            if outcome.error and not outcome.again:
                problems[outcome.definition_id] = outcome.error
            elif outcome.action == "create" and outcome.deployment_id:
                ids[outcome.definition_id] = outcome.deployment_id
        rows = []
        for definition in comparison.roster.definitions:
            key = str(definition.id)
            row = _status(definition, comparison.desired.wanted.get(key), ids.get(key))
            row["problem"] = problems.get(key)
            row["applied_at"] = now if key in written else definition.applied_at
            if any(getattr(definition, column) != value for column, value in row.items()):
                rows.append(row)
        await status.record(self.engine, rows)

    async def heed(self) -> None:
        """Stop or resume the queues of noted tenants; their notes stay, for the deployments."""
        noted = await notes.tenants(self.engine)
        self._heeded = {slug: flag for slug, flag in self._heeded.items() if slug in noted}
        await self._stop_or_go(
            slug for slug, suspended in noted.items() if self._heeded.get(slug) is not suspended
        )

    async def _stop_or_go(self, slugs: Iterable[str]) -> None:
        """Stop or resume the queues of tenants, before anything slower."""
        for slug in sorted(slugs):
            async with self._setting:  # or what was read earlier could be set later
                suspended, pools = await tenants.queues_of(self.engine, slug)
                # Without asking which pools there are: every call counts while runs are starting.
                for pool in sorted(pools | {self.settings.work_pool}):
                    await self._pause_queue(pool, slug, suspended)
                self._heeded[slug] = suspended

    async def _hold_suspended(self, found: Roster) -> None:
        """Stop the queues of suspended tenants that are not; what a person stopped stays so."""
        going = set()
        for pool in await self._pools(found.definitions) if found.suspended else ():
            queues = await self.gateway.queues(pool)
            going |= {slug for slug in found.suspended & queues.keys() if not queues[slug]}
        # Read anew: one may have been resumed since, and nobody would let its queue go again.
        await self._stop_or_go(going)

    async def _pause_queue(self, pool: str, tenant: str, paused: bool) -> None:
        try:
            await self.gateway.pause_queue(pool, tenant, paused)
        except PrefectRefused as refused:
            if refused.status != 404:  # the queue comes with the tenant's first deployment
                logger.warning("Queue %s of pool %s: %s", tenant, pool, refused)

    async def _pools(self, definitions: Iterable[Definition]) -> list[str]:
        """Return those pools of the definitions that there are; a row may name anything."""
        named = {one.work_pool for one in definitions if one.work_pool}
        there = await self.gateway.work_pools()
        return sorted((named | {self.settings.work_pool}) & there.keys())


def _subjects(changes: Changes) -> list[tuple[str, str, UUID]]:
    specs = [
        *changes.create,
        *(one.desired for one in changes.update),
        *(one.spec for one in changes.delete),
    ]
    named = [(spec.reference.partition("/"), _uuid(spec.definition_id)) for spec in specs]
    return [(tenant, name, about) for (tenant, _, name), about in named if about]


def _uuid(text: str) -> UUID | None:
    # What is read from Prefect may have been written by anybody.
    try:
        return UUID(text)
    except ValueError:
        return None


def _without_taken(plan: Plan, taken: Iterable[Deployed]) -> tuple[Plan, dict[str, str]]:
    """Take out of the plan what would replace somebody else's deployment."""
    names = {(one.spec.flow_name, one.spec.name) for one in taken}
    conflicts = {
        spec.definition_id: (
            f"name: Prefect has a deployment {spec.flow_name}/{spec.name} that this database does "
            "not own; rename or delete that one, or give this definition another name"
        )
        for spec in plan.changes.create
        if (spec.flow_name, spec.name) in names
    }
    create = tuple(one for one in plan.changes.create if one.definition_id not in conflicts)
    return replace(plan, changes=replace(plan.changes, create=create)), conflicts


def _status(
    definition: Definition, wanted: Wanted | None, deployment_id: str | None
) -> dict[str, object]:
    known = UUID(deployment_id) if deployment_id else None
    return {
        "id": definition.id,
        "deployment_id": known,
        "fingerprint": wanted.spec.fingerprint if wanted and known else definition.fingerprint,
        "next_run_at": wanted.next_run_at if wanted and known else None,
    }
