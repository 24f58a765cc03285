"""What Prefect holds becomes specs; reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deployments.gateway import Gateway
from deployments.schedule import canonical
from deployments.spec import SCHEDULE_SLUG, Deployed, DeploymentSpec, owner_tag


async def owned(gateway: Gateway, instance: str) -> list[Deployed]:
    """Return every deployment of this instance; foreign ones are not even read."""
    found: list[Deployed] = []
    schemas: dict[str, Mapping[str, Any]] = {}
    async for page in gateway.owned(owner_tag(instance)):
        found += await _deployed(gateway, instance, page, schemas)
    return found


async def named(gateway: Gateway, instance: str, names: Iterable[str]) -> list[Deployed]:
    """Return the deployments of these names, foreign ones among them (`owned` tells)."""
    return await _deployed(gateway, instance, await gateway.named(names), {})


async def _deployed(
    gateway: Gateway,
    instance: str,
    answers: list[dict[str, Any]],
    schemas: dict[str, Mapping[str, Any]],
) -> list[Deployed]:
    flows = await gateway.flow_names({str(answer["flow_id"]) for answer in answers})
    return [
        _one(answer, flows.get(str(answer["flow_id"]), ""), instance, schemas) for answer in answers
    ]


def _one(
    answer: Mapping[str, Any],
    flow_name: str,
    instance: str,
    schemas: dict[str, Mapping[str, Any]],
) -> Deployed:
    schedules = answer["schedules"]
    own = [str(one["id"]) for one in schedules if one.get("slug") == SCHEDULE_SLUG]
    # Ten thousand deployments share a handful of schemas; keeping one of each saves the memory.
    schema = answer["parameter_openapi_schema"] or {}
    schema = schemas.setdefault(repr(schema), schema)
    spec = DeploymentSpec(
        definition_id=str(answer["labels"].get("rota.definition", "")),
        flow_name=flow_name,
        name=answer["name"],
        description=answer["description"],
        entrypoint=answer["entrypoint"],
        parameters=answer["parameters"],
        parameter_schema=schema,
        schedules=tuple(_schedule(one) for one in schedules),
        paused=bool(answer["paused"]),
        overlap=_overlap(answer),
        tags=tuple(answer["tags"]),
        work_pool=answer["work_pool_name"],
        work_queue=answer["work_queue_name"],
        job_variables=answer["job_variables"],
    )
    return Deployed(
        id=str(answer["id"]),
        spec=spec,
        owned=owner_tag(instance) in spec.tags,
        own_schedule=own[0] if own else None,
        foreign_schedules=tuple(str(one["id"]) for one in schedules if str(one["id"]) not in own),
    )


def _overlap(answer: Mapping[str, Any]) -> str | None:
    limit = (answer.get("global_concurrency_limit") or {}).get("limit")
    if limit is None:
        return None
    strategy = (answer.get("concurrency_options") or {}).get("collision_strategy")
    return strategy if limit == 1 and strategy else f"at most {limit}"  # not of Rota's making


def _schedule(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "slug": answer.get("slug"),
        "active": bool(answer["active"]),
        "parameters": answer.get("parameters") or {},
        "schedule": canonical(answer["schedule"]),
    }
