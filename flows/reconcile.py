"""The duty that brings Prefect and the definitions together."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_table_artifact
from prefect.states import Completed


@flow
async def reconcile(
    policy: Literal["sync", "upsert-only", "create-only"] = "sync", dry_run: bool = False
) -> dict[str, Any]:
    """Compare all definitions with all of their deployments, and mend what differs.

    The plan is kept as a table among the run's artifacts. It runs where the definitions database
    can be reached: on the machine of `scripts/up`, or with `ROTA_DATABASE_URL` set.

    Args:
        policy: What may be done: everything, all but deletes, or only creates.
        dry_run: Say what there is to do, and do none of it.
    """
    # Unlike the other duties this one is about Rota itself; a worker that runs only the others
    # need not have what these bring along.
    from deployments import block, explain
    from deployments.gateway import Gateway
    from deployments.policy import POLICIES
    from deployments.reconcile import Reconciler, Report
    from store import database
    from store.settings import Settings

    settings = Settings()
    async with (
        database.opened(await block.find(settings)) as engine,
        Gateway.connect() as gateway,
    ):
        reconciler = Reconciler(engine, gateway, settings, POLICIES[policy])
        if dry_run:
            report = Report(await reconciler.compare())
        else:
            report = await reconciler.sweep()
    summary = explain.summary(report.comparison)
    rows = explain.table(report.comparison)
    await acreate_table_artifact(rows or [{"change": "none"}], key="rota-plan", description=summary)
    failed = [one for one in report.outcomes if one.error]
    for outcome in failed:
        get_run_logger().error("%s: %s: %s", outcome.reference, outcome.action, outcome.error)
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(report.outcomes)} changes failed; the log names them"
        )
    return Completed(  # type: ignore[return-value]
        data=explain.data(report.comparison), message=summary
    )
