"""What Prefect loads: `deployments.bound.NAME` is the duty, bound to its definition's policies.

A flow's retries and time limit stand in its source, and no kind of worker lets a deployment
change them. The policies of a definition travel in the run's environment instead, which process,
Docker and Kubernetes workers all set.
"""

from typing import Any as _Any

from prefect import Flow as _Flow

# A duty may have any name, so nothing else here may have a public one.
from deployments import duties as _duties


def __getattr__(name: str) -> _Flow[..., _Any]:
    try:
        return _duties.bind(_duties.load(name))
    except _duties.UnknownDuty:
        raise AttributeError(name) from None
