"""What Prefect loads: `deployments.bound.NAME` is the duty, bound to its definition's policies.

A flow's retries and time limit stand in its source, and no kind of worker lets a deployment
change them. The policies of a definition travel in the run's environment instead, which process,
Docker and Kubernetes workers all set.
"""

from __future__ import annotations

from typing import Any

from prefect import Flow

from deployments.duties import UnknownDuty, bind, load


def __getattr__(name: str) -> Flow[..., Any]:
    try:
        return bind(load(name))
    except UnknownDuty:
        raise AttributeError(name) from None
