"""Changes become calls to Prefect; one failure never stops the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deployments.gateway import Gateway, PrefectRefused, PrefectUnavailable
from deployments.plan import Changes, Update
from deployments.spec import Deployed, DeploymentSpec, labels

# What Prefect calls each field; a field that is not here cannot be changed after creation.
BODY: Mapping[str, str] = {
    "description": "description",
    "entrypoint": "entrypoint",
    "parameters": "parameters",
    "parameter_schema": "parameter_openapi_schema",
    "paused": "paused",
    "tags": "tags",
    "job_variables": "job_variables",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one change.

    Attributes:
        action: `create`, `update` or `delete`.
        reference: The definition, as `tenant/name`.
        definition_id: The definition's id.
        deployment_id: Prefect's id of the deployment, if it is known.
        error: What went wrong, if anything did.
        again: Whether it is worth trying again as it is.
        away: Whether it failed because Prefect is not to be had at all.
    """

    action: str
    reference: str
    definition_id: str
    deployment_id: str | None = None
    error: str | None = None
    again: bool = False
    away: bool = False


Since = Callable[[str], datetime]
"""From which instant on the runs of a definition are to be there, by the definition's id."""


BULK = 100
"""From so many creations on, their runs are made after all of them are there."""


def in_bulk(changes: Changes) -> bool:
    """Tell whether `apply` leaves the runs of what it creates for its caller to make.

    A creation drops no runs, so they can wait; a thousand deployments are there sooner.
    """
    return len(changes.create) > BULK


class _Applier:
    def __init__(self, gateway: Gateway, since: Since, bulk: bool) -> None:
        self.gateway = gateway
        self.since = since
        self.bulk = bulk
        self._queues: set[tuple[str | None, str | None]] = set()
        self._turns: dict[tuple[str | None, str | None], asyncio.Lock] = {}

    async def create(self, spec: DeploymentSpec) -> str:
        body = {
            "flow_id": await self.gateway.flow_id(spec.flow_name),
            "name": spec.name,
            "labels": labels(spec.definition_id, spec.reference),
            "version": spec.fingerprint,
            "enforce_parameter_schema": True,
            "schedules": spec.schedules,
            **{name: getattr(spec, field) for field, name in BODY.items()},
            **_queue(spec),
            **_overlap(spec),
        }
        async with self._alone_if_first(spec):
            try:
                deployment_id = await self.gateway.create(body)
            except PrefectRefused as refused:
                if refused.status not in (404, 409):
                    raise
                # Its flow may have been deleted since its id was read.
                self.gateway.forget_flow(spec.flow_name)
                body["flow_id"] = await self.gateway.flow_id(spec.flow_name)
                deployment_id = await self.gateway.create(body)
        if not self.bulk:
            await self._make_runs(deployment_id, spec)
        return deployment_id

    async def update(self, update: Update) -> str:
        deployed, spec = update.deployed, update.desired
        changed = {difference.field for difference in update.differences}
        if "schedules" in changed:
            # Before the PATCH, which would be refused for a schedule that has no slug.
            for schedule_id in deployed.foreign_schedules:
                await self.gateway.delete_schedule(deployed.id, schedule_id)
        body: dict[str, Any] = {
            BODY[field]: getattr(spec, field) for field in BODY if field in changed
        }
        body["version"] = spec.fingerprint
        if changed & {"work_pool", "work_queue"}:
            body |= _queue(spec)
        if "overlap" in changed:
            body |= _overlap(spec)
        if "schedules" in changed and spec.schedules:
            body["schedules"] = spec.schedules
        if changed & {"work_pool", "work_queue"}:
            async with self._alone_if_first(spec):
                await self.gateway.update(deployed.id, body)
        else:
            await self.gateway.update(deployed.id, body)
        if deployed.own_schedule and not spec.schedules:
            # A PATCH never removes one. After it, so that after a crash in between the difference
            # is still to be seen, and the version does not stay behind.
            await self.gateway.delete_schedule(deployed.id, deployed.own_schedule)
        await self._make_runs(deployed.id, spec)
        return deployed.id

    async def delete(self, deployed: Deployed) -> str:
        await self.gateway.delete(deployed.id)
        return deployed.id

    @asynccontextmanager
    async def _alone_if_first(self, spec: DeploymentSpec) -> AsyncIterator[None]:
        """Let the first write into a queue go alone.

        Prefect makes the queue with it, and of two that both make it one is refused with 409.
        """
        queue = (spec.work_pool, spec.work_queue)
        if queue not in self._queues:
            async with self._turns.setdefault(queue, asyncio.Lock()):
                if queue not in self._queues:
                    yield
                    self._queues.add(queue)
                    return
        yield

    async def _make_runs(self, deployment_id: str, spec: DeploymentSpec) -> None:
        # Prefect drops the future runs at every write, and its scheduler looks only from its own
        # next loop on: an occurrence in between would be lost.
        if spec.schedules and not spec.paused:
            await self.gateway.make_runs(deployment_id, self.since(spec.definition_id))


def _queue(spec: DeploymentSpec) -> dict[str, Any]:
    # The two go together: a pool alone moves the deployment to the pool's default queue.
    return {"work_pool_name": spec.work_pool, "work_queue_name": spec.work_queue}


def _overlap(spec: DeploymentSpec) -> dict[str, Any]:
    if spec.overlap is None:
        return {"concurrency_limit": None, "concurrency_options": None}
    return {"concurrency_limit": 1, "concurrency_options": {"collision_strategy": spec.overlap}}


async def apply(
    changes: Changes,
    gateway: Gateway,
    since: Since,
    *,
    concurrency: int = 4,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Carry out `changes`, the deletes first, and say what became of each.

    Once Prefect is not to be had, what has not begun is not tried any more: its outcome says
    that it is to be tried again. Creations in bulk are without runs yet: see `in_bulk`.

    Args:
        changes: What to do.
        gateway: Prefect.
        since: From when on each definition's runs must be there.
        concurrency: How many changes may be under way at once.
        progress: Is told each outcome as soon as it is known.
    """
    applier = _Applier(gateway, since, in_bulk(changes))
    deletes = [_step("delete", one.spec, applier.delete, one) for one in changes.delete]
    writes = [_step("create", one, applier.create, one) for one in changes.create]
    writes += [_step("update", one.desired, applier.update, one) for one in changes.update]
    outcomes = await _carry_out(deletes, concurrency, progress)
    if any(outcome.away for outcome in outcomes):
        return outcomes + [_put_off(step) for step in writes]
    return outcomes + await _carry_out(writes, concurrency, progress)


@dataclass(frozen=True)
class _Step:
    action: str
    spec: DeploymentSpec
    call: Callable[[], Awaitable[str]]


def _step(
    action: str, spec: DeploymentSpec, call: Callable[[Any], Awaitable[str]], argument: Any
) -> _Step:
    return _Step(action, spec, lambda: call(argument))


async def _carry_out(
    steps: Iterable[_Step], concurrency: int, progress: Callable[[Outcome], None]
) -> list[Outcome]:
    waiting = iter(list(steps))
    outcomes: list[Outcome] = []
    away = False

    async def work() -> None:
        nonlocal away
        for step in waiting:
            outcome = _put_off(step) if away else await _try(step)
            away = away or outcome.away
            outcomes.append(outcome)
            progress(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return outcomes


async def _try(step: _Step) -> Outcome:
    known = (step.action, step.spec.reference, step.spec.definition_id)
    try:
        return Outcome(*known, deployment_id=await step.call())
    except PrefectRefused as refused:
        # A deployment that somebody deleted a moment ago is made anew at the next try.
        return Outcome(*known, error=str(refused), again=refused.status == 404)
    except PrefectUnavailable as unavailable:
        error = str(unavailable)
        return Outcome(*known, error=error, again=True, away=unavailable.away)


def _put_off(step: _Step) -> Outcome:
    return Outcome(
        step.action,
        step.spec.reference,
        step.spec.definition_id,
        error="not tried, for Prefect is away",
        again=True,
        away=True,
    )
