"""What a run is made of: its deployment, its flow, and how the two want to be run."""

from __future__ import annotations

import asyncio
import copy
import importlib
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.results import (
    _aget_default_persist_result,  # pyright: ignore[reportPrivateUsage]
    _aget_default_result_storage,  # pyright: ignore[reportPrivateUsage]
)
from prefect.utilities.processutils import command_to_string
from prefect.workers.process import ProcessJobConfiguration, ProcessVariables
from pydantic import Field

from workers.run import inline
from workers.threads import in_thread

LEASHED = command_to_string([sys.executable, str(Path(__file__).with_name("leash.py"))])
"""By its path: as a module it would import all of this first."""

FRESH = 30.0
"""Seconds for which a deployment is taken to be as it was read, its version being the same."""

Isolation = Literal["none", "process"]


class InlineJobConfiguration(ProcessJobConfiguration):
    """How one run is to be run; what concerns a process makes it run in one."""

    isolation: Isolation = Field(default="none")
    restart: bool = Field(default=True)

    def prepare_for_flow_run(self, *args: Any, **kwargs: Any) -> None:
        """See that a run's process does not outlive the worker."""
        self.command = self.command or LEASHED
        super().prepare_for_flow_run(*args, **kwargs)


class InlineVariables(ProcessVariables):
    """What a work pool, a deployment or a run may set."""

    isolation: Isolation = Field(
        default="none",
        description="`none` runs the flow in the worker's own process; `process` in one of its "
        "own, as does anything that only a process can have: a command, a working directory, "
        "environment variables, or code that has to be fetched.",
    )
    restart: bool = Field(
        default=True,
        description="Whether a run is started again when its worker has died; else it crashes.",
    )


@dataclass(frozen=True)
class Order:
    """How a run is to be run.

    Attributes:
        flow: Its flow, ready to run in this process; None if it wants one of its own.
        threaded: Whether the flow occupies a thread.
        restart: Whether it starts again should its worker die.
    """

    flow: Flow[..., Any] | None
    threaded: bool
    restart: bool


class Catalog:
    """Deployments and flows, each looked up once and kept."""

    def __init__(self) -> None:
        self._deployments: dict[UUID, tuple[DeploymentResponse, float]] = {}
        self._flows: dict[tuple[Any, ...], tuple[Flow[..., Any] | None, bool]] = {}
        self._loading: dict[tuple[Any, ...], asyncio.Task[Flow[..., Any] | None]] = {}
        self._defaults: tuple[float, Any, bool] = (0.0, None, False)

    async def look_up(self, client: PrefectClient, runs: Collection[FlowRun]) -> None:
        """Read the deployments of `runs` that are not known, in one call."""
        now = time.monotonic()
        for key in [key for key, (_, until) in self._deployments.items() if until < now]:
            del self._deployments[key]
        wanted = {run.deployment_id for run in runs if run.deployment_id and not self._known(run)}
        for some in _batches(sorted(wanted), 100):
            for found in await client.read_deployments(
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=some))
            ):
                self._deployments[found.id] = (found, now + FRESH)
        if now - self._defaults[0] > FRESH:
            storage = (await _aget_default_result_storage()).storage
            self._defaults = (now, storage, await _aget_default_persist_result())

    def _known(self, run: FlowRun) -> bool:
        found = self._deployment(run)
        return found is not None and found.version == run.deployment_version

    def _deployment(self, run: FlowRun) -> DeploymentResponse | None:
        entry = self._deployments.get(run.deployment_id) if run.deployment_id else None
        return entry[0] if entry is not None else None

    async def order(self, client: PrefectClient, pool: WorkPool, run: FlowRun) -> Order:
        """Return how `run` is to be run.

        Raises:
            LookupError: Its deployment is gone.
            Exception: Its flow does not load; whatever the module raised.
        """
        deployment = self._deployment(run)
        if deployment is None:  # looked up too long ago
            await self.look_up(client, [run])
            deployment = self._deployment(run)
        if deployment is None:
            raise LookupError("Its deployment was deleted")
        values = _merged(deployment.job_variables or {}, run.job_variables or {})
        wanted: InlineJobConfiguration = await _resolved(_template(pool), values, client=client)
        flow, threaded = None, False
        apart = (
            wanted.isolation == "process"
            or wanted.command is not None
            or wanted.working_dir is not None
            or bool(deployment.pull_steps)
            or deployment.entrypoint is None
            or ":" in deployment.entrypoint  # a file, which each load would execute again
        )
        if not apart and deployment.entrypoint is not None:
            flow, threaded = await self._flow(deployment.entrypoint, wanted.env)
        return Order(flow, threaded, wanted.restart)

    async def _load(self, entrypoint: str, environment: Mapping[str, str]) -> Flow[..., Any] | None:
        """Load a flow in a thread of its own, once for all that wait for it."""
        key = (entrypoint, *sorted(environment.items()))
        if key not in self._loading:
            loading = asyncio.create_task(in_thread(_load)(entrypoint, environment))
            loading.add_done_callback(lambda _: self._loading.pop(key, None))
            self._loading[key] = loading
        return await asyncio.shield(self._loading[key])

    async def _flow(
        self, entrypoint: str, environment: Mapping[str, str | None]
    ) -> tuple[Flow[..., Any] | None, bool]:
        _, storage, persist = self._defaults
        given = {name: value for name, value in environment.items() if value is not None}
        key = (entrypoint, *sorted(given.items()), id(storage), persist)
        if key not in self._flows:
            loaded = await self._load(entrypoint, given)
            if loaded is not None:
                # Unless it is told, the engine asks the server for each run, and blocks the loop.
                if loaded.result_storage is None:
                    loaded.result_storage = storage
                if loaded.persist_result is None:
                    loaded.persist_result = persist
            threaded = loaded is not None and not loaded.isasync
            self._flows[key] = (inline(loaded) if loaded is not None else None, threaded)
        return self._flows[key]


def _load(entrypoint: str, environment: Mapping[str, str]) -> Flow[..., Any] | None:
    try:
        return load(entrypoint, environment)
    except Exception:
        raise
    except BaseException as error:  # of somebody else's making: it may even exit
        raise ImportError(f"its module raised {error!r}") from error


def load(entrypoint: str, environment: Mapping[str, str]) -> Flow[..., Any] | None:
    """Return the flow at `entrypoint`, ready to run beside others, or None if it cannot.

    A flow in a process of its own finds its environment in `os.environ`. Here there is none to
    set; a module whose flows want something from it says so by a function
    `__bind__(flow, environment)`, which returns the flow with what the environment says, or None
    if it says more than a flow among others can have.

    Raises:
        TypeError: What stands there is no flow.
        Exception: Whatever its module raises as it is imported.
    """
    name, _, attribute = entrypoint.rpartition(".")
    module = importlib.import_module(name)
    flow = getattr(module, attribute)
    if not isinstance(flow, Flow):
        raise TypeError(f"{entrypoint} is no Prefect flow but {type(flow).__name__}")
    if flow.isgenerator:
        return None
    if (bind := getattr(module, "__bind__", None)) is not None:
        flow = bind(flow, environment)
    elif environment:
        flow = None
    return copy.copy(flow) if flow is not None else None


_resolved: Any = InlineJobConfiguration.from_template_and_values


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**ours, **theirs}
    if isinstance(ours.get("env"), Mapping) and isinstance(theirs.get("env"), Mapping):
        merged["env"] = {**ours["env"], **theirs["env"]}
    return merged


def _template(pool: WorkPool) -> dict[str, Any]:
    """Return the pool's template, such that it passes on what this kind of worker understands.

    The pool may have been made for workers of another kind, or before there was one of these.
    """
    own = InlineJobConfiguration.json_template()
    template = pool.base_job_template
    configuration = {**own, **template.get("job_configuration", {})}
    return {"variables": {}, **template, "job_configuration": configuration}


def _batches(items: list[UUID], size: int) -> list[list[UUID]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
