"""`/tenants/{tenant}/config`: the figures that a tenant's people set."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy.exc import NoResultFound

from api import documents
from api.access import Editor, Reader, TenantSlug, no_tenant
from api.problems import declared
from api.state import state_of
from deployments.entry import Strict
from store import jobs, tenants

router = APIRouter(prefix="/tenants/{tenant}/config", tags=["jobs"])


class Config(Strict):
    """What is set."""

    max_concurrent_jobs: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="How many jobs may run at once; 2 where nobody has said, 0 for none",
        examples=[2],
    )


@router.get("", response_model=Config, responses=declared(404))
async def get_config(request: Request, tenant: TenantSlug, caller: Reader) -> Response:
    """Read what is set."""
    engine = state_of(request).engine
    if await tenants.find(engine, tenant) is None:
        raise no_tenant(tenant)
    return documents.answer({"max_concurrent_jobs": await jobs.limit(engine, tenant)})


@router.put("", response_model=Config, responses=declared(404))
async def put_config(
    request: Request, tenant: TenantSlug, caller: Editor, body: Config
) -> Response:
    """Set it; it is in force within two seconds. Jobs that are running are left to end."""
    try:
        await jobs.set_limit(
            state_of(request).engine, tenant, body.max_concurrent_jobs, caller.name
        )
    except NoResultFound:
        raise no_tenant(tenant) from None
    return documents.answer(body.model_dump())
