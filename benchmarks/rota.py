"""Rota as a whole process: `python -m benchmarks.rota apply` and `... watch`.

What the commands `rota apply` and `rota watch` do, and nothing else of them.
"""

from __future__ import annotations

import asyncio
import sys
import time

import orjson

began = time.perf_counter()


async def _apply() -> dict[str, float | int]:
    from deployments.gateway import Gateway
    from deployments.reconcile import Reconciler
    from store import database
    from store.settings import Settings

    settings = Settings()
    imported = time.perf_counter()
    async with (
        database.opened(database.url(settings)) as engine,
        Gateway.connect() as gateway,
    ):
        report = await Reconciler(engine, gateway, settings).sweep()
    return {
        "changes": len(report.comparison.plan.changes),
        "errors": sum(1 for outcome in report.outcomes if outcome.error),
        "problems": len(report.comparison.problems),
        "import_seconds": round(imported - began, 3),
        "sweep_seconds": round(time.perf_counter() - imported, 3),
    }


async def _watch() -> None:
    from deployments.gateway import Gateway
    from deployments.watch import Watch
    from store import database
    from store.settings import Settings

    settings = Settings()
    address = database.url(settings)
    async with database.opened(address) as engine, Gateway.connect() as gateway:
        await Watch(address, engine, gateway, settings).run()


if __name__ == "__main__":
    if sys.argv[1:] == ["watch"]:
        asyncio.run(_watch())
    else:
        print(orjson.dumps(asyncio.run(_apply())).decode())
