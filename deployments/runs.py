"""Starting a run of a definition at once, from Python; no database is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.client.schemas.objects import FlowRun

from deployments.gateway import Gateway


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
        deployment_id = await _deployment(gateway, reference)
        made = await gateway.create_run(deployment_id, parameters or {}, idempotency_key)
    return FlowRun.model_validate(made)


async def _deployment(gateway: Gateway, reference: str) -> str:
    tenant, slash, name = reference.partition("/")
    if not (tenant and slash and name):
        raise CannotRun(f"{reference!r} is no definition's address; write it as tenant/name.")
    found = [
        one
        for one in await gateway.named([f"{tenant}.{name}"])
        if any(tag.startswith("rota:") for tag in one["tags"])
    ]
    if not found:
        raise CannotRun(
            f"Prefect has no deployment of {reference}; `rota show {reference}` says why."
        )
    if len(found) > 1:
        raise CannotRun(
            f"Prefect has {len(found)} deployments of {reference}, of several databases; run one "
            "of them by its id, or delete those of databases that are gone."
        )
    return str(found[0]["id"])
