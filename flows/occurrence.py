"""The occurrence that the current run is for, as every duty needs it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

DEFINITION_LABEL = "rota.definition"
REFERENCE_LABEL = "rota.reference"
OCCURRENCE_LABEL = "rota.occurrence"
TRIGGER_LABEL = "rota.trigger"
"""Those of a run that replays another: its occurrence, and what made it due."""


class NoOccurrence(RuntimeError):
    """There is no current occurrence."""


@dataclass(frozen=True)
class Occurrence:
    """One instant at which a duty is due, and what made it due.

    Attributes:
        definition_id: The definition's id, or None for a run that no definition made.
        reference: The definition's `tenant/name`, or None likewise.
        at: The nominal time, UTC and aware. It stays the same however late the run starts, and
            through retries, and in a run that replays one that has failed.
        trigger: `schedule` for a run that a schedule made, `manual` for all others.
        run_id: The Prefect flow run's id.

    """

    definition_id: str | None
    reference: str | None
    at: datetime
    trigger: Literal["schedule", "manual"]
    run_id: str | None

    @property
    def time(self) -> str:
        """The nominal time in its one ISO 8601 form, such as `2026-11-21T10:00:00Z`.

        Six digits of a second follow where they are not all zero, as in manual runs.
        """
        return self.at.astimezone(UTC).isoformat().replace("+00:00", "Z")

    @property
    def idempotency_key(self) -> str:
        """The key that makes whatever is sent out for this occurrence one thing.

        It holds the definition and the nominal time, so retries, a second worker, and a run that
        was scheduled twice all have the same one. Without a definition, the run stands for it.
        """
        return f"{self.definition_id or self.run_id}:{self.time}"


def current_occurrence() -> Occurrence:
    """Return the occurrence that the current flow run is for.

    Raises:
        NoOccurrence: There is no flow run around the caller.

    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.expected_start_time is None:
        raise NoOccurrence("There is no current occurrence: call this inside of a flow run.")
    return Occurrence(
        definition_id=_label(run, DEFINITION_LABEL),
        reference=_label(run, REFERENCE_LABEL),
        at=_at(run),
        trigger=_trigger(run),
        run_id=str(run.id),
    )


def _at(run: FlowRun) -> datetime:
    assert run.expected_start_time is not None
    at = _label(run, OCCURRENCE_LABEL) or run.expected_start_time.isoformat()
    return datetime.fromisoformat(at).astimezone(UTC)


def _label(run: FlowRun, name: str) -> str | None:
    value = run.labels.get(name)
    return None if value is None else str(value)


def _trigger(run: FlowRun) -> Literal["schedule", "manual"]:
    if replayed := _label(run, TRIGGER_LABEL):
        return "schedule" if replayed == "schedule" else "manual"
    by_schedule = run.created_by is not None and run.created_by.type == "SCHEDULE"
    return "schedule" if run.auto_scheduled or by_schedule else "manual"
