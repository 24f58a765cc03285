"""Runs that Prefect need not keep any longer, found and deleted in pages.

Prefect deletes a run's task runs and states with it, its logs a moment later, and leaves its
artifacts. These go by the server's own vacuum where it is set to delete what belongs to no run, and
before the run where it is not: a run that is still there when somebody is killed is found again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from httpx import HTTPStatusError
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


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a definition's runs.

    Attributes:
        deployment_id: Prefect's id of its deployment; None while there is none.
        keep_runs: How many runs.
    """

    deployment_id: str | None
    keep_runs: int


def only(run_ids: Sequence[str]) -> dict[str, Any]:
    """Return the filter of exactly these runs, as far as they have ended.

    Raises:
        EmptyFilter: There are none.
        ValueError: One is no id.

    """
    ids = [str(UUID(one)) for one in run_ids]
    if not ids:
        raise EmptyFilter("The filter names no run; nothing is deleted.")
    return {"id": {"any_": ids}, "state": _ended()}


@dataclass
class OldRuns:
    """Deletes runs that ended before an instant.

    Attributes:
        before: Runs that ended then or later stay (UTC and aware).
        client: Prefect's.
        vacuumed: Whether Prefect's server deletes the artifacts of runs that are gone.
        counts: How many `runs` and `artifacts` are gone by the calls made here.

    """

    before: datetime
    client: PrefectClient
    vacuumed: bool = False
    counts: dict[str, int] = field(default_factory=lambda: {"runs": 0, "artifacts": 0})
    _due: list[str] = field(default_factory=list)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    @asynccontextmanager
    async def than(cls, before: datetime) -> AsyncIterator[Self]:
        """Yield what deletes runs that ended before an instant (UTC and aware)."""
        async with get_client() as client:
            old = cls(before, client, await _vacuums(client))
            yield old
            await old.delete(old._due)

    async def clean(self, deployment_id: str, keep: int) -> None:
        """Delete the old runs of a deployment but for the latest `keep` of all that ended.

        The last of them go when there are enough for a call, at the end of the block at the latest.
        """
        wanted = {"deployment_id": {"any_": [deployment_id]}, "state": _ended()}
        passed = keep
        while page := await self._runs(wanted, "END_TIME_DESC", passed):
            old = [run["id"] for run in page if self._is_old(run)]
            if len(page) < PAGE:
                await self._delete_soon(old)
                return
            await self.delete(old)
            passed += len(page) - len(old)

    async def clean_former(self, owner: str, tenant: str, definitions: Mapping[str, Kept]) -> int:
        """Delete old runs whose deployment is no definition's any longer; return how many.

        Those of a definition that is gone all go. Those of one whose deployment was made anew are
        older than the runs of that, and count after them among the runs that are kept.

        Args:
            owner: The tag of all runs of this Rota.
            tenant: Whose runs; its work queue is named so, and that of its jobs after it.
            definitions: All that the tenant has, by id.

        """
        wanted = {
            "tags": {"all_": [owner]},
            "work_queue_name": {"any_": [tenant, f"{tenant}.jobs"]},
            "state": _ended(),
            "end_time": {"before_": self.before.isoformat()},
        }
        known = {one.deployment_id for one in definitions.values() if one.deployment_id}
        left = await self._count(wanted)
        for some in _batches(sorted(known), PAGE):
            left -= await self._count({**wanted, "deployment_id": {"any_": some}})
        latest = _Latest(self, definitions)
        passed = found = 0
        while left > 0 and (page := await self._runs(wanted, "START_TIME_ASC", passed)):
            former = [one for one in page if one["deployment_id"] not in known]
            surplus = [
                run_id
                for one in former
                if self._is_old(one) and (run_id := await latest.push_out(one))
            ]
            gone = self.counts["runs"]
            await self.delete(surplus)
            found += self.counts["runs"] - gone
            left -= len(former)
            passed += len(page) - len(surplus)
            if len(page) < PAGE:
                break
        return found

    async def room(self, kept: Kept) -> int:
        """Return how many runs of former deployments a definition keeps."""
        if kept.deployment_id is None:
            return kept.keep_runs
        of_it = {"deployment_id": {"any_": [kept.deployment_id]}, "state": _ended()}
        return max(0, kept.keep_runs - await self._count(of_it))

    async def delete(self, run_ids: Sequence[str]) -> None:
        """Delete runs that have ended, with all that Prefect keeps of them."""
        for some in _batches(run_ids, BULK):
            await self._delete_children(some)
            if not self.vacuumed:
                await self._delete_artifacts(some)
            # SQLite lets one write at a time: those of workers wait for one of these at most.
            async with self._turn:
                gone = await self._post("/flow_runs/bulk_delete", {"flow_runs": only(some)})
            self.counts["runs"] += len(gone["deleted"])

    async def _delete_soon(self, run_ids: Sequence[str]) -> None:
        self._due += run_ids
        while len(self._due) >= BULK:
            some, self._due = self._due[:BULK], self._due[BULK:]
            await self.delete(some)

    async def _delete_children(self, run_ids: Sequence[str]) -> None:
        """Delete the runs of flows that these runs have called; nothing else leads to them."""
        wanted = {
            "parent_flow_run_id": {"any_": only(run_ids)["id"]["any_"]},
            "deployment_id": {"is_null_": True},
            "state": _ended(),
        }
        while page := await self._runs(wanted, "EXPECTED_START_TIME_ASC", 0):
            before = self.counts["runs"]
            await self.delete([one["id"] for one in page])
            if len(page) < PAGE or self.counts["runs"] == before:
                return

    async def _delete_artifacts(self, run_ids: Sequence[str]) -> None:
        wanted = {"artifacts": {"flow_run_id": {"any_": only(run_ids)["id"]["any_"]}}}
        while page := await self._post("/artifacts/filter", {**wanted, "limit": PAGE}):
            # Those of tasks name the run as well.
            own = [one["id"] for one in page if one["flow_run_id"] in run_ids]
            if len(own) < len(page):
                raise EmptyFilter("Prefect answers with artifacts of other runs; nothing is safe.")
            for some in _batches(own, AT_ONCE):
                await asyncio.gather(*(self._delete_artifact(one) for one in some))
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


@dataclass
class _Latest:
    """The latest runs of former deployments, as many of each definition as it keeps.

    They come in from the oldest on; what is held is bounded by what is kept.
    """

    old: OldRuns
    definitions: Mapping[str, Kept]
    _held: dict[str, tuple[int, dict[str, None]]] = field(default_factory=dict)

    async def push_out(self, run: Mapping[str, Any]) -> str | None:
        """Take in a run; return the id of the one that is too many for its definition, if any."""
        definition = str((run.get("labels") or {}).get(DEFINITION))
        if definition not in self.definitions:
            return str(run["id"])
        if definition not in self._held:
            self._held[definition] = (await self.old.room(self.definitions[definition]), {})
        room, held = self._held[definition]
        held[run["id"]] = None  # a run that two pages show counts once
        if len(held) <= room:
            return None
        oldest = next(iter(held))
        del held[oldest]
        return oldest


async def _vacuums(client: PrefectClient) -> bool:
    """Tell whether a server deletes what belongs to no run; False where it does not say."""
    try:
        answer = await client.request("GET", "/admin/settings")
        enabled = answer.json()["server"]["services"]["db_vacuum"]["enabled"]
    except (HTTPStatusError, KeyError, TypeError):
        return False
    if isinstance(enabled, bool):
        return enabled
    return not {"orphans", "flow_runs"}.isdisjoint(enabled or ())


def _ended() -> dict[str, Any]:
    return {"type": {"any_": list(TERMINAL)}}


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
