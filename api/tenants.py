"""`/tenants`: who there are, and suspending them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import Response

from api import documents
from api.access import Admin, Reader, TenantSlug, everywhere, no_tenant
from api.paging import Paging, keyed, numbered, text_key
from api.problems import Refused, declared
from api.state import state_of
from store import tenants

router = APIRouter(prefix="/tenants", tags=["tenants"])

_NO_REASON = documents.Suspension()


@router.get("", response_model=documents.Tenants, responses=declared())
async def list_tenants(
    request: Request,
    caller: Reader,
    paging: Paging,
    q: Annotated[
        str | None, Query(max_length=63, description="A part of the slug", examples=["ac"])
    ] = None,
) -> Response:
    """List the tenants that the token is good for, by slug."""
    engine = state_of(request).engine
    after, before = text_key(paging.after, "after"), text_key(paging.before, "before")
    only = caller.tenant
    if paging.number is None:
        rows = await tenants.listed(
            engine,
            paging.size + 1,
            after=after and after[0],
            before=before and before[0],
            q=q,
            only=only,
        )
        page = keyed(paging, rows, lambda one: [one.tenant.slug], _shown)
    else:
        rows = await tenants.listed(engine, paging.size, paging.offset, q=q, only=only)
        total = await tenants.counted(engine, q=q, only=only)
        page = numbered(paging, [_shown(one) for one in rows], total)
    return documents.answer(page)


@router.post("", response_model=documents.Tenant, status_code=201, responses=declared(409))
async def create_tenant(request: Request, caller: Admin, body: documents.NewTenant) -> Response:
    """Create a tenant."""
    everywhere(caller)
    made = await tenants.create(state_of(request).engine, body.slug, body.title, caller.name)
    if not made:
        raise Refused(409, f"There is a tenant {body.slug!r} already.", [("slug", "it is taken")])
    location = f"{request.url.path}/{body.slug}"
    return await _answer(request, body.slug, 201, {"Location": location})


@router.get("/{tenant}", response_model=documents.Tenant, responses=declared(404))
async def get_tenant(request: Request, caller: Reader, tenant: TenantSlug) -> Response:
    """Read one tenant."""
    return await _answer(request, tenant)


@router.put("/{tenant}", response_model=documents.Tenant, responses=declared(404))
async def put_tenant(
    request: Request, caller: Admin, tenant: TenantSlug, body: documents.TenantBody
) -> Response:
    """Give a tenant another title."""
    if not await tenants.rename(state_of(request).engine, tenant, body.title, caller.name):
        raise no_tenant(tenant)
    return await _answer(request, tenant)


@router.delete("/{tenant}", status_code=204, responses=declared(404, 409))
async def delete_tenant(request: Request, caller: Admin, tenant: TenantSlug) -> Response:
    """Delete a tenant that has no definitions any more."""
    everywhere(caller)
    engine = state_of(request).engine
    if await tenants.find(engine, tenant) is None:
        raise no_tenant(tenant)
    if not await tenants.delete(engine, tenant, caller.name):
        raise Refused(409, f"The tenant {tenant} has definitions; delete them first.")
    return Response(status_code=204)


@router.post("/{tenant}/suspend", response_model=documents.Tenant, responses=declared(404))
async def suspend_tenant(
    request: Request,
    caller: Admin,
    tenant: TenantSlug,
    body: Annotated[documents.Suspension, Body()] = _NO_REASON,
) -> Response:
    """Let nothing of a tenant start any more, until it is resumed.

    What its definitions say stays as it is: one that is paused is still paused afterwards. Runs
    that have begun go on.
    """
    everywhere(caller)
    if not await tenants.suspend(state_of(request).engine, tenant, body.reason, caller.name):
        raise no_tenant(tenant)
    return await _answer(request, tenant)


@router.post("/{tenant}/resume", response_model=documents.Tenant, responses=declared(404))
async def resume_tenant(request: Request, caller: Admin, tenant: TenantSlug) -> Response:
    """Let a suspended tenant's definitions run again."""
    everywhere(caller)
    if not await tenants.unsuspend(state_of(request).engine, tenant, caller.name):
        raise no_tenant(tenant)
    return await _answer(request, tenant)


async def _answer(
    request: Request, slug: str, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    found = await tenants.find(state_of(request).engine, slug)
    if found is None:
        raise no_tenant(slug)
    return documents.answer(_shown(found), status, headers)


def _shown(one: tenants.Counted) -> dict[str, Any]:
    row = one.tenant
    names = ("slug", "title", "suspended", "suspended_reason", "suspended_at")
    counts = {"definitions": one.definitions, "problems": one.problems}
    return {name: getattr(row, name) for name in names} | counts
