"""Runs that Prefect need not keep any longer, found and deleted in pages.

Prefect deletes a run's task runs and states with it, its logs a moment later, and leaves its
artifacts, so those go first: a run that is still there when somebody is killed is found again.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound

TERMINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PAGE = 200
"""The most that Prefect answers in one page, unless its server is set otherwise."""

BULK = 50
"""The most that Prefect deletes in one call."""

AT_ONCE = 4
"""Calls at once."""

DEFINITION = "rota.definition"
"""The label of a run that names its definition."""


class EmptyFilter(ValueError):
    """A filter names no run, and Prefect would take that for any run."""


def only(run_ids: Sequence[str]) -> dict[str, Any]:
    """Return the filter of exactly these runs, as far as they have ended.

    Raises:
        EmptyFilter: There are none.
        ValueError: One is no id.

    """
    ids = [str(UUID(one)) for one in run_ids]
    if not ids:
        raise EmptyFilter("The filter names no run; nothing is deleted.")
    return {"id": {"any_": ids}, "state": {"type": {"any_": list(TERMINAL)}}}


@dataclass
class OldRuns:
    """Deletes runs that ended before an instant.

    Attributes:
        before: Runs that ended then or later stay (UTC and aware).
        client: Prefect's.
        counts: How many `runs` and `artifacts` are gone.

    """

    before: datetime
    client: PrefectClient
    counts: dict[str, int] = field(default_factory=lambda: {"runs": 0, "artifacts": 0})

    @classmethod
    @asynccontextmanager
    async def than(cls, before: datetime) -> AsyncIterator[Self]:
        """Yield what deletes runs that ended before an instant (UTC and aware)."""
        async with get_client() as client:
            yield cls(before, client)

    async def clean(self, deployment_id: str, keep: int) -> None:
        """Delete the old runs of a deployment but for the latest `keep` of all that ended."""
        wanted = {"deployment_id": {"any_": [deployment_id]}, "state": _ended()}
        kept = keep
        while page := await self._runs(wanted, "EXPECTED_START_TIME_DESC", kept):
            old = [run["id"] for run in page if self._is_old(run)]
            await self.delete(old)
            kept += len(page) - len(old)
            if len(page) < PAGE:
                return

    async def clean_orphans(
        self,
        owner: str,
        tenant: str,
        deployments: Collection[str],
        definitions: Collection[str],
    ) -> int:
        """Delete the old runs of definitions that are gone; return how many.

        Args:
            owner: The tag of all runs of this Rota.
            tenant: Whose runs; its work queue is named so, and that of its jobs after it.
            deployments: Those that the tenant's definitions have.
            definitions: The ids of the tenant's definitions.

        """
        wanted = {
            "tags": {"all_": [owner]},
            "work_queue_name": {"any_": [tenant, f"{tenant}.jobs"]},
            "state": _ended(),
            "end_time": {"before_": self.before.isoformat()},
        }
        of_known = 0
        for some in _batches(sorted(deployments), PAGE):
            of_known += await self._count({**wanted, "deployment_id": {"any_": some}})
        left = await self._count(wanted) - of_known
        passed = found = 0
        while left > 0 and (page := await self._runs(wanted, "EXPECTED_START_TIME_ASC", passed)):
            orphans = [
                run["id"]
                for run in page
                if run["deployment_id"] not in deployments
                and (run.get("labels") or {}).get(DEFINITION) not in definitions
                and self._is_old(run)
            ]
            await self.delete(orphans)
            found += len(orphans)
            left -= len(orphans)
            passed += len(page) - len(orphans)
            if len(page) < PAGE:
                break
        return found

    async def delete(self, run_ids: Sequence[str]) -> None:
        """Delete runs that have ended, with all that Prefect keeps of them."""
        for some in _batches(run_ids, BULK):
            await self._delete_artifacts(some)
            gone = await self._post("/flow_runs/bulk_delete", {"flow_runs": only(some)})
            self.counts["runs"] += len(gone["deleted"])

    async def _delete_artifacts(self, run_ids: Sequence[str]) -> None:
        wanted = {"artifacts": {"flow_run_id": {"any_": only(run_ids)["id"]["any_"]}}}
        while page := await self._post("/artifacts/filter", {**wanted, "limit": PAGE}):
            # Those of tasks name the run as well.
            own = [one["id"] for one in page if one["flow_run_id"] in run_ids]
            if len(own) < len(page):
                raise EmptyFilter("Prefect answers with artifacts of other runs; nothing is safe.")
            await asyncio.gather(*(self._delete_artifact(one) for one in own))
            self.counts["artifacts"] += len(own)
            if len(page) < PAGE:
                return

    async def _delete_artifact(self, artifact_id: str) -> None:
        with suppress(ObjectNotFound):
            await self.client.delete_artifact(UUID(artifact_id))

    def _is_old(self, run: Mapping[str, Any]) -> bool:
        return bool(run["end_time"]) and datetime.fromisoformat(run["end_time"]) < self.before

    async def _runs(self, wanted: Mapping[str, Any], sort: str, offset: int) -> list[Any]:
        body = {"flow_runs": wanted, "sort": sort, "limit": PAGE, "offset": offset}
        found: list[Any] = await self._post("/flow_runs/filter", body)
        return found

    async def _count(self, wanted: Mapping[str, Any]) -> int:
        return int(await self._post("/flow_runs/count", {"flow_runs": wanted}))

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        answer = await self.client.request("POST", path, json=body)  # type: ignore[arg-type]
        answer.raise_for_status()
        return answer.json()


def _ended() -> dict[str, Any]:
    return {"type": {"any_": list(TERMINAL)}}


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
