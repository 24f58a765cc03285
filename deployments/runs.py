"""Starting a run of a definition at once, from Python; no database is needed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from prefect.client.schemas.objects import FlowRun

from deployments.gateway import Gateway
from deployments.history import BY


class CannotRun(Exception):
    """There is no one deployment to run; the message says what to do."""


async def run_now(
    reference: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    idempotency_key: str | None = None,
) -> FlowRun:
    """Make a run of a definition that is due now, and return it as Prefect has it.

    A paused definition runs all the same; that of a suspended tenant waits until it is no longer.

    Args:
        reference: The definition, as `tenant/name`.
        parameters: What to hand to the duty over the definition's own.
        idempotency_key: Makes a second call with the same key return the first one's run.

    Raises:
        CannotRun: Rota has made no deployment of it, or several databases have made one each.
        deployments.gateway.PrefectError: Prefect is away, or refuses the parameters.
    """
    async with Gateway.connect() as gateway:
        deployment = await _deployment(gateway, reference)
        made = await start(gateway, deployment, parameters or {}, idempotency_key)
    return FlowRun.model_validate(made)


async def start(
    gateway: Gateway,
    deployment: Mapping[str, Any],
    parameters: Mapping[str, Any],
    idempotency_key: str | None = None,
    at: datetime | None = None,
    by: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Make a run of a deployment, as Prefect answers with it.

    Args:
        gateway: Prefect.
        deployment: As Prefect has it.
        parameters: What to hand to the duty over the deployment's own.
        idempotency_key: Makes a second call with the same key return the first one's run.
        at: When it is due; None for now.
        by: Who asks for it, for the history.
        labels: To be put on the run.

    Raises:
        CannotRun: A parameter is none of the duty's. (Prefect would make a run that crashes.)
        deployments.gateway.PrefectError: Prefect is away, or refuses the parameters.
    """
    known = (deployment["parameter_openapi_schema"] or {}).get("properties", {})
    for name in parameters:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
            raise CannotRun(f"The duty takes no parameter {name!r}; {meant}")
    tags = [] if by is None else [f"{BY}{by}"]
    return await gateway.create_run(
        str(deployment["id"]), parameters, idempotency_key, at, tags, labels
    )


async def _deployment(gateway: Gateway, reference: str) -> dict[str, Any]:
    found = await deployments_of(gateway, reference)
    if not found:
        raise CannotRun(
            f"Prefect has no deployment of {reference}; `rota show {reference}` says why."
        )
    if len(found) > 1:
        raise CannotRun(
            f"Prefect has {len(found)} deployments of {reference}, of several databases; run one "
            "of them by its id, or delete those of databases that are gone."
        )
    return found[0]


async def deployments_of(gateway: Gateway, reference: str) -> list[dict[str, Any]]:
    """Return the deployments that Rota made of a definition, in whichever database it is.

    Raises:
        CannotRun: `reference` is not in the form tenant/name.
    """
    tenant, slash, name = reference.partition("/")
    if not (tenant and slash and name):
        raise CannotRun(f"{reference!r} is no definition's address; write it as tenant/name.")
    return [
        one
        for one in await gateway.named([f"{tenant}.{name}"])
        if any(tag.startswith("rota:") for tag in one["tags"])
    ]
