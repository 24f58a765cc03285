"""`rota plan` and `rota apply`: one comparison of everything, said or carried out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from deployments import explain
from deployments.apply import Outcome
from deployments.policy import POLICIES
from deployments.reconcile import Comparison, Reconciler, Report
from scripts import session, show
from store.settings import Settings

LONG = 20
"""From so many changes on, a bar says how far it is."""

DONE = {"create": "created", "update": "updated", "delete": "deleted"}


async def plan(settings: Settings, json: bool) -> int:
    """Print what `apply` would do; return 2 if that is anything."""
    async with session.database(settings) as engine, session.prefect() as gateway:
        comparison = await Reconciler(engine, gateway, settings).compare()
    if json:
        show.json(explain.data(comparison))
    else:
        for line in explain.lines(comparison.plan.changes):
            show.line(line)
        _problems(comparison)
        show.line(explain.summary(comparison))
    return 2 if comparison.plan.changes else 0


async def apply(settings: Settings, policy: str, json: bool) -> int:
    """Carry out what the policy allows; return 1 if any of it failed."""
    async with session.database(settings) as engine, session.prefect() as gateway:
        reconciler = Reconciler(engine, gateway, settings, POLICIES[policy])
        with ExitStack() as stack:
            report = await _sweep(reconciler, stack, quiet=json)
    failed = [outcome for outcome in report.outcomes if outcome.error]
    if json:
        show.json(_data(report))
    else:
        _problems(report.comparison)
        done = len(report.outcomes) - len(failed)
        show.line(f"{done} done, {len(failed)} failed, {_unchanged(report)} unchanged")
    for outcome in failed:
        show.warn(f"{outcome.reference}: {outcome.action}: {outcome.error}")
    return 1 if failed else 0


async def _sweep(reconciler: Reconciler, stack: ExitStack, quiet: bool) -> Report:
    told: list[Callable[[], None]] = []

    def announce(comparison: Comparison) -> None:
        total = len(comparison.plan.changes)
        if total < LONG or not sys.stderr.isatty():
            return
        columns = ("Prefect", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
        task = bar.add_task("apply", total=total)
        told.append(lambda: bar.advance(task))

    def progress(outcome: Outcome) -> None:
        for tell in told:
            tell()
        if not quiet and not told and not outcome.error:
            show.line(f"{DONE[outcome.action]} {outcome.reference}")

    return await reconciler.sweep(announce, progress)


def _problems(comparison: Comparison) -> None:
    for reference, problem in explain.data(comparison)["problems"].items():
        show.line(f"problem {reference}: {problem}")


def _unchanged(report: Report) -> int:
    return len(report.comparison.plan.unchanged)


def _data(report: Report) -> dict[str, object]:
    return {
        "outcomes": [
            {
                "action": one.action,
                "definition": one.reference,
                "deployment_id": one.deployment_id,
                "error": one.error,
            }
            for one in report.outcomes
        ],
        "unchanged": _unchanged(report),
        "problems": explain.data(report.comparison)["problems"],
    }
