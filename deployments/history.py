"""What Prefect keeps of the runs of a definition. Nothing of it is kept twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deployments.gateway import PAGE, Gateway

BY = "rota.by:"
"""How the tag of a run begins that somebody has asked for; their name follows."""

TIES = 50
"""So many runs of one definition may be due at one instant, and a page still ends between them."""

FAILED = ("FAILED", "CRASHED")

PUT_OFF = "rota.put_off"
"""The label that says how often a run has been put off; `flows.circuit` writes it."""


@dataclass(frozen=True)
class Wanted:
    """Which runs are asked for; None asks for any.

    Attributes:
        states: Names of states, as Prefect has them.
        since: Due then, or later.
        until: Due then, or earlier.
        by: `schedule`, or the name of who asked for them.
    """

    until: datetime
    since: datetime | None = None
    states: Sequence[str] = ()
    by: str | None = None

    def filter(self, deployment_ids: Sequence[str]) -> dict[str, Any]:
        """Return Prefect's filter for them."""
        due: dict[str, Any] = {"before_": self.until.isoformat()}
        if self.since is not None:
            due["after_"] = self.since.isoformat()
        chosen: dict[str, Any] = {
            "deployment_id": {"any_": list(deployment_ids)},
            "expected_start_time": due,
        }
        if self.states:
            chosen["state"] = {"name": {"any_": list(self.states)}}
        if self.by == "schedule":
            chosen["created_by"] = {"type_": ["SCHEDULE"]}
        elif self.by is not None:
            chosen["tags"] = {"all_": [f"{BY}{self.by}"]}
        return chosen


async def numbered(
    gateway: Gateway, deployment_id: str, wanted: Wanted, limit: int, offset: int
) -> tuple[list[dict[str, Any]], int]:
    """Return runs, the latest occurrence first, and how many there are in all."""
    chosen = wanted.filter([deployment_id])
    found = await gateway.runs_where(chosen, "EXPECTED_START_TIME_DESC", limit, offset)
    return [shown(run) for run in found], await gateway.count_runs(chosen)


async def beside(
    gateway: Gateway,
    deployment_id: str,
    wanted: Wanted,
    limit: int,
    position: tuple[datetime, str] | None,
    backwards: bool,
) -> list[dict[str, Any]]:
    """Return runs that come after a position in the history, the latest occurrence first.

    Args:
        gateway: Prefect.
        deployment_id: The definition's deployment.
        wanted: Which runs.
        limit: The most runs.
        position: Occurrence and id of a run; None for the beginning.
        backwards: Return those that come before it instead, the nearest first.
    """
    chosen = wanted.filter([deployment_id])
    due = chosen["expected_start_time"]
    if position is not None:
        due["after_" if backwards else "before_"] = position[0].isoformat()
    sort = f"EXPECTED_START_TIME_{'ASC' if backwards else 'DESC'}"
    found = await _first(gateway, chosen, sort, limit + TIES)
    # Prefect leaves open which of those comes first that are due at one instant.
    found.sort(key=_place, reverse=not backwards)
    if position is not None:
        found = [
            run
            for run in found
            if (_place(run) > position if backwards else _place(run) < position)
        ]
    return [shown(run) for run in found[:limit]]


async def _first(
    gateway: Gateway, chosen: Mapping[str, Any], sort: str, count: int
) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}  # by id: pages shift when a run comes meanwhile
    for offset in range(0, count, PAGE):
        page = await gateway.runs_where(chosen, sort, count - offset, offset)
        found |= {run["id"]: run for run in page}
        if len(page) < PAGE:
            break
    return list(found.values())


async def latest(gateway: Gateway, deployment_id: str, until: datetime) -> dict[str, Any] | None:
    """Return the latest run that was due."""
    chosen = Wanted(until).filter([deployment_id])
    found = await gateway.runs_where(chosen, "EXPECTED_START_TIME_DESC", 1)
    return shown(found[0]) if found else None


def shown(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run as the history shows it."""
    return {
        "id": run["id"],
        "name": run["name"],
        "occurrence": run["expected_start_time"],
        "started": run["start_time"],
        "finished": run["end_time"],
        "state": run["state_name"],
        "attempts": attempts(run),
        "error": message(run) or None if run["state_type"] in FAILED else None,
        "message": message(run) or None,
        "by": who(run),
        "parameters": run["parameters"],
        "result": (run.get("state") or {}).get("data"),
    }


def attempts(run: Mapping[str, Any]) -> int:
    """Return how often a run was started, without the starts that only put it off."""
    put_off = (run.get("labels") or {}).get(PUT_OFF)
    # Somebody else may have written it.
    return int(max(0, run["run_count"] - (max(0, put_off) if isinstance(put_off, int) else 0)))


def message(run: Mapping[str, Any]) -> str:
    """Return what the state of a run says."""
    return str((run.get("state") or {}).get("message") or "")


def who(run: Mapping[str, Any]) -> str:
    """Return who asked for a run: `schedule`, a name, or `manual` where nobody gave one."""
    if run["auto_scheduled"] or (run.get("created_by") or {}).get("type") == "SCHEDULE":
        return "schedule"
    names = [tag.removeprefix(BY) for tag in run.get("tags") or () if tag.startswith(BY)]
    return names[0] if names else "manual"


def _place(run: Mapping[str, Any]) -> tuple[datetime, str]:
    return datetime.fromisoformat(run["expected_start_time"]), str(run["id"])
