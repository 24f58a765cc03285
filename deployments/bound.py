"""What Prefect loads: `deployments.bound.NAME` is the duty, bound to its definition's policies.

A flow's retries and time limit stand in its source, and no kind of worker lets a deployment
change them. The policies of a definition travel in the run's environment instead, which process,
Docker and Kubernetes workers all set. A worker that runs flows in its own process has no
environment to set, and calls `__bind__`.
"""

from collections.abc import Mapping as _Mapping
from typing import Any as _Any

from prefect import Flow as _Flow

# A duty may have any name, so nothing else here may have a public one.
from deployments import duties as _duties
from deployments.spec import POLICIES as _POLICIES


def __getattr__(name: str) -> _Flow[..., _Any]:
    try:
        return _duties.bind(_duties.load(name))
    except _duties.UnknownDuty:
        raise AttributeError(name) from None


def __bind__(flow: _Flow[..., _Any], environment: _Mapping[str, str]) -> _Flow[..., _Any] | None:
    """Return the duty bound to its policies, or None where there is more than these."""
    if environment.keys() - _POLICIES:
        return None
    return _duties.bind(flow, environment)
