"""The canonical form of a deployment, which what is wanted and what is there both take."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson

if TYPE_CHECKING:
    from store.models import Definition

RUN_JOB = "run_job"
"""The duty that runs jobs."""
ALLOW_COMMANDS = "ROTA_ALLOW_COMMANDS"
"""The variable by which who starts a worker lets it run them; no row may set it."""

SCHEDULE_SLUG = "definition"
"""The slug of the one schedule; Prefect keeps a schedule's id for as long as its slug stays."""

RETRIES = "ROTA_RETRIES"
RETRY_DELAY = "ROTA_RETRY_DELAY_SECONDS"
TIMEOUT = "ROTA_TIMEOUT_SECONDS"
POLICIES = (RETRIES, RETRY_DELAY, TIMEOUT)
"""The variables that the policies of a definition travel in; no row may set them itself."""


class Key(NamedTuple):
    """What makes two specs speak of one deployment; Prefect cannot change any of the three."""

    definition_id: str
    flow_name: str
    name: str


class Difference(NamedTuple):
    """One field of a deployment that is not as it should be."""

    field: str
    current: Any
    desired: Any


@dataclass(frozen=True)
class DeploymentSpec:
    """One deployment, as Prefect's API speaks of it, in JSON's types.

    Attributes:
        definition_id: The definition's id.
        flow_name: The flow's name in Prefect.
        name: `tenant.name`.
        schedules: The deployment's schedules; Rota makes one or none.
        overlap: Prefect's collision strategy, or None where runs may overlap.
        work_queue: The tenant's slug, or the queue of its jobs.
    """

    definition_id: str
    flow_name: str
    name: str
    description: str | None
    entrypoint: str | None
    parameters: Mapping[str, Any]
    parameter_schema: Mapping[str, Any]
    schedules: tuple[Mapping[str, Any], ...]
    paused: bool
    overlap: str | None
    tags: tuple[str, ...]
    work_pool: str | None
    work_queue: str | None
    job_variables: Mapping[str, Any]

    @property
    def key(self) -> Key:
        """What identifies the deployment, whatever else changes."""
        return Key(self.definition_id, self.flow_name, self.name)

    @property
    def reference(self) -> str:
        """The definition's address, `tenant/name`; neither part can hold a dot."""
        return self.name.replace(".", "/", 1)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ where anything that matters to a run does.

        Whether the deployment is paused is not part of it: a pause makes no new version.
        """
        content = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("paused", "description")
        }
        text = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(text).hexdigest()[:16]


@dataclass(frozen=True)
class Deployed:
    """A deployment that Prefect holds.

    Attributes:
        id: Prefect's id of it.
        spec: What it is, in canonical form.
        foreign_schedules: Ids of the schedules that are not the definition's.
        own_schedule: The id of the one that is, if it is there.
        owned: Whether it carries this instance's tag.
    """

    id: str
    spec: DeploymentSpec
    owned: bool = True
    own_schedule: str | None = None
    foreign_schedules: tuple[str, ...] = ()


def owner_tag(instance: str) -> str:
    """Return the tag that marks the deployments of the database `instance`."""
    return f"rota:{instance}"


def jobs_queue(tenant: str) -> str:
    """Return the work queue of a tenant's jobs, which has their limit; no slug holds a dot."""
    return f"{tenant}.jobs"


def unfit_for_jobs(definition: Definition) -> str | None:
    """Return which policy would act on the runs of jobs, which wait in them for their turn."""
    if definition.overlap != "allow":
        return (
            f"overlap: {definition.overlap!r} would cancel runs of jobs, or hold them up; leave "
            "it at allow, and set max_concurrent_jobs"
        )
    if definition.retries:
        return (
            f"retries: {definition.retries} would run for nothing what a job has ended; leave it "
            "at 0, and give the jobs retries"
        )
    if definition.timeout_seconds is not None:
        return (
            f"timeout_seconds: {definition.timeout_seconds:g} would count the time for which jobs "
            "wait for their turn; leave it null, and give the jobs a timeout_seconds"
        )
    return None


def schedule_of(prefect: Mapping[str, Any]) -> dict[str, Any]:
    """Return the one schedule of a deployment, around Prefect's form of when."""
    return {"slug": SCHEDULE_SLUG, "active": True, "parameters": {}, "schedule": dict(prefect)}


def labels(definition_id: UUID | str, reference: str) -> dict[str, str]:
    """Return the labels by which a run finds its definition; `flows.occurrence` reads them."""
    return {"rota.definition": str(definition_id), "rota.reference": reference}


def environment(
    retries: int, retry_delay_seconds: int, timeout_seconds: float | None
) -> dict[str, str]:
    """Return the environment of a definition's runs, in which `duties.bind` finds its policies."""
    values = {RETRIES: str(retries), RETRY_DELAY: str(retry_delay_seconds)}
    if timeout_seconds is not None:
        values[TIMEOUT] = _plain(timeout_seconds)
    return values


def differences(current: DeploymentSpec, desired: DeploymentSpec) -> tuple[Difference, ...]:
    """Return field by field what would have to change."""
    return tuple(
        Difference(field.name, old, new)
        for field in fields(DeploymentSpec)
        if not _same(old := getattr(current, field.name), new := getattr(desired, field.name))
    )


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON does, where true is not 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(float(number))
