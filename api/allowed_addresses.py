"""`/tenants/{tenant}/allowed-addresses`: what the actions of a tenant may call beside the public.

The network is the operator's, so it takes an administrator of all tenants to open it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy.exc import NoResultFound

from api import documents
from api.access import Admin, Reader, TenantSlug, everywhere, no_tenant
from api.problems import declared
from api.state import state_of
from deployments.entry import Strict
from store import actions

router = APIRouter(prefix="/tenants/{tenant}/allowed-addresses", tags=["actions"])

EXAMPLE = ["10.1.0.0/16", "intranet.example.com"]


def _known(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        pass
    label = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
    # The last label is no number, or it would be an address that is mistyped.
    if len(value) > 253 or not re.fullmatch(rf"({label}\.)*(?![0-9.]+$){label}", value.lower()):
        raise ValueError(
            "is no address, network or name of a host; write such as 10.1.0.0/16 or "
            "intranet.example.com"
        )
    return value.lower()


class AllowedAddresses(BaseModel):
    """What actions may call beside the public Internet."""

    addresses: list[str] = Field(
        description="Addresses, networks, and names of hosts wherever these lead",
        examples=[EXAMPLE],
    )


class AllowedAddressesBody(Strict):
    """What actions may call beside the public Internet; all of it."""

    addresses: list[Annotated[str, Field(max_length=253), AfterValidator(_known)]] = Field(
        max_length=200,
        description="Addresses, networks, and names of hosts wherever these lead; at most 200",
        examples=[EXAMPLE],
    )


@router.get("", response_model=AllowedAddresses, responses=declared(404))
async def get_allowed_addresses(request: Request, tenant: TenantSlug, caller: Reader) -> Response:
    """Tell which addresses the actions of a tenant may call beside the public ones."""
    there, found = await actions.allowed_addresses(state_of(request).engine, tenant)
    if not there:
        raise no_tenant(tenant)
    return documents.answer({"addresses": found})


@router.put("", response_model=AllowedAddresses, responses=declared(404))
async def put_allowed_addresses(
    request: Request, tenant: TenantSlug, caller: Admin, body: AllowedAddressesBody
) -> Response:
    """Say which addresses the actions of a tenant may call beside the public ones.

    It takes an admin token of all tenants.
    """
    everywhere(caller)
    engine = state_of(request).engine
    try:
        await actions.allow_addresses(engine, tenant, body.addresses, caller.name)
    except NoResultFound:
        raise no_tenant(tenant) from None
    return documents.answer({"addresses": body.addresses})
