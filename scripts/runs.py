"""`rota run` and `rota history`: one definition's runs in Prefect."""

from __future__ import annotations

import asyncio
import json as jsonlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from deployments.gateway import Gateway
from deployments.history import message, shown
from deployments.inputs import declared, filled
from deployments.runs import deployments_of, start
from scripts import session, show
from store import roster
from store.models import Definition
from store.settings import Settings

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
POLL_SECONDS = 1.0
AHEAD = 100
"""So many runs that are not due yet may stand before those that were."""


async def run(settings: Settings, reference: str, param: list[str], wait: bool, json: bool) -> int:
    """Start a run; with `wait`, return 0 only if it completes."""
    parameters = _parameters(param)
    async with session.database(settings) as engine:
        one = await session.definition(engine, reference)
        suspended = (await roster.read(engine, [])).suspended
    _check(one, suspended)
    if inputs := declared(one.inputs):
        parameters["input"] = filled(inputs, {**one.parameters, **parameters})["input"]
    async with session.prefect() as gateway:
        made = await start(gateway, await _deployment(gateway, one), parameters)
        if not json:
            show.line(f"{reference}: run {made['name']} ({made['id']})")
        if wait:
            made = await _ended(gateway, made["id"])
    if json:
        show.json(shown(made))
    elif wait:
        show.line(f"{made['state_name']}: {message(made)}" if message(made) else made["state_name"])
    return 0 if not wait or made["state_type"] == "COMPLETED" else 1


async def history(settings: Settings, reference: str, limit: int, json: bool) -> int:
    """Print the runs of a definition that were due, the latest first."""
    async with session.database(settings) as engine:
        one = await session.definition(engine, reference)
    runs: list[dict[str, Any]] = []
    if one.deployment_id is not None:
        async with session.prefect() as gateway:
            found = await gateway.runs(str(one.deployment_id), limit + AHEAD)
        runs = [shown(run) for run in found if _was_due(run)][:limit]
    if json:
        show.json(runs)
        return 0
    columns = ("occurrence", "started", "finished", "state", "by", "message")
    show.table(
        columns,
        (
            [show.when(run[name]) for name in columns[:3]] + [run[name] for name in columns[3:]]
            for run in runs
        ),
    )
    return 0


def _parameters(pairs: Iterable[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise session.Refused(f"--param: {pair!r} is no name=value.")
        try:
            parameters[name] = jsonlib.loads(text)
        except ValueError:
            parameters[name] = text
    return parameters


def _check(one: Definition, suspended: frozenset[str]) -> None:
    if one.tenant in suspended:
        raise session.Refused(
            f"The tenant {one.tenant} is suspended; `rota unsuspend {one.tenant}` lets it run."
        )
    if one.problem:
        raise session.Refused(f"{one.reference} has a problem: {one.problem}")
    if one.deployment_id is None:
        raise session.Refused(
            f"{one.reference} has no deployment yet; `rota watch` makes it, or `rota apply`."
        )


async def _deployment(gateway: Gateway, one: Definition) -> dict[str, Any]:
    for found in await deployments_of(gateway, one.reference):
        if found["id"] == str(one.deployment_id):
            return found
    raise session.Refused(
        f"Prefect has no longer a deployment of {one.reference}; `rota apply` makes it anew."
    )


async def _ended(gateway: Gateway, run_id: str) -> dict[str, Any]:
    while True:
        found = await gateway.run(run_id)
        if found["state_type"] in FINAL:
            return found
        await asyncio.sleep(POLL_SECONDS)


def _was_due(run: dict[str, Any]) -> bool:
    due = datetime.fromisoformat(run["expected_start_time"])
    return run["state_type"] != "SCHEDULED" or due <= datetime.now(UTC)
