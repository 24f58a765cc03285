"""The duties that a definition may name, and how a run of one is bound to its definition."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import entry_points
from typing import Any

import jsonschema
from prefect import Flow
from prefect.utilities.callables import parameter_schema

from deployments.spec import RETRIES, RETRY_DELAY, TIMEOUT

ENTRY_POINTS = "rota.duties"


@dataclass(frozen=True)
class Duty:
    """A kind of work, written once as a Prefect flow.

    Attributes:
        name: How definitions name it.
        flow_name: How Prefect names its flow.
        description: The flow's docstring.
        schema: The JSON schema of the flow's parameters.
    """

    name: str
    flow_name: str
    description: str | None
    schema: Mapping[str, Any]

    @property
    def entrypoint(self) -> str:
        """Where Prefect loads the flow from: a module path, the same in every directory."""
        return f"deployments.bound.{self.name}"

    @cached_property
    def validator(self) -> jsonschema.Draft202012Validator:
        """Check parameters against the schema."""
        return jsonschema.Draft202012Validator(dict(self.schema))


class UnknownDuty(LookupError):
    """No package brings a duty of that name."""


def load(name: str) -> Flow[..., Any]:
    """Return the flow of the duty `name`.

    Raises:
        UnknownDuty: There is none.
        ImportError: There is one, but its module does not load.
    """
    target = _targets().get(name)
    if target is None:
        raise UnknownDuty(name)
    return _flow(*target)


def _flow(module: str, attribute: str) -> Flow[..., Any]:
    found = getattr(importlib.import_module(module), attribute, None)
    if not isinstance(found, Flow):
        raise ImportError(f"{module}:{attribute} is not a Prefect flow")
    return found


def _targets() -> dict[str, tuple[str, str]]:
    import flows

    own = {
        module.name: (f"flows.{module.name}", module.name)
        for module in pkgutil.iter_modules(flows.__path__)
    }
    brought = {point.name: (point.module, point.attr) for point in entry_points(group=ENTRY_POINTS)}
    return brought | own


def discover() -> tuple[dict[str, Duty], dict[str, str]]:
    """Return every duty by its name, and of each that does not load the reason.

    A module of `flows` is a duty if it holds a flow of its own name; other packages bring theirs
    through the entry-point group `rota.duties`.
    """
    duties: dict[str, Duty] = {}
    broken: dict[str, str] = {}
    for name, (module, attribute) in sorted(_targets().items()):
        try:
            if module == f"flows.{name}" and not hasattr(importlib.import_module(module), name):
                continue
            duties[name] = describe(name, _flow(module, attribute))
        except (Exception, SystemExit) as error:  # what somebody else wrote may raise anything
            reason = " ".join(str(error).splitlines()[:1])
            broken[name] = f"{module}:{attribute} does not load: {type(error).__name__}: {reason}"
    return duties, broken


@cache
def describe(name: str, flow: Flow[..., Any]) -> Duty:
    """Return what a definition has to know of the duty that is `flow`.

    Raises:
        ValueError: `name` cannot stand in an entrypoint.
        jsonschema.SchemaError: Its parameters cannot be checked. (Pydantic takes patterns that
            Python's `re` does not, and Prefect's server would fail on them.)
    """
    if not name.isidentifier() or name.startswith("_"):
        raise ValueError(f"{name!r} is no name for a duty; use letters, digits and underscores")
    schema = parameter_schema(flow).model_dump(mode="json", exclude_none=True)
    jsonschema.Draft202012Validator.check_schema(schema)
    return Duty(name, flow.name, flow.description, schema)


def bind(flow: Flow[..., Any], environment: Mapping[str, str] = os.environ) -> Flow[..., Any]:
    """Return `flow` with the retries and the time limit of the definition that it runs for.

    What the environment does not name, the flow keeps as its source has it; where it names the
    retries, the run is a definition's, and no time limit there means none.
    """
    bound = flow.with_options()
    if RETRIES in environment:
        bound.retries = int(environment[RETRIES])
        bound.retry_delay_seconds = int(environment.get(RETRY_DELAY, 0))
        limit = environment.get(TIMEOUT)
        bound.timeout_seconds = float(limit) if limit else None
    return bound
