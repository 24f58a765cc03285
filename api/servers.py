"""`/tenants/{tenant}/servers`: as their provider lists them, and one at a time."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents, fleet, listings, lists
from api.access import Anybody, Recorder, TenantSlug
from api.fleet import HANDLE, Handle, HandlePath, Status, without_default
from api.paging import Page, Paging
from api.problems import Refused, declared, unfit
from api.state import state_of
from deployments.entry import Instant, Strict, Text
from store import servers
from store.fleet import Server as Row
from store.fleet import ServerChange as ChangeRow

router = APIRouter(prefix="/tenants/{tenant}/servers", tags=["records"])

MOST = 5000
"""Servers in one call."""

Amount = Annotated[int, Field(ge=0, lt=2**53)]
Name = Annotated[Text, Field(max_length=255)]


class ServerItem(Strict):
    """A server as its provider lists it; what is left out stays as it is."""

    provider_id: Annotated[Text, Field(min_length=1, max_length=200)] = Field(
        description="Its id at the provider", examples=["10482"]
    )
    handle: Handle | None = Field(
        None,
        description="How a new one is addressed from now on, instead of `vps-` and its id",
        examples=[HANDLE],
    )
    host: fleet.Host | None = Field(None, description="Its name", examples=["web-1.example.com"])
    public_ip: fleet.Address | None = Field(
        None, description="Its address, of IPv4 or IPv6", examples=["203.0.113.7"]
    )
    addresses: list[Name] = Field(
        [],
        max_length=100,
        description="All of its addresses",
        examples=[["203.0.113.7", "2001:db8::7"]],
        json_schema_extra=without_default,
    )
    capacity_cpu: Amount | None = Field(None, description="Its cores", examples=[4])
    capacity_ram_mb: Amount | None = Field(None, description="Its memory, in MB", examples=[8192])
    capacity_disk_mb: Amount | None = Field(None, description="Its disk, in MB", examples=[81920])
    used_ram_mb: Amount | None = Field(None, description="Memory in use, in MB", examples=[2048])
    used_disk_mb: Amount | None = Field(None, description="Disk in use, in MB", examples=[20480])
    os_template: Name | None = Field(
        None, description="What was installed on it", examples=["kvm-ubuntu-24.04-gpt-x86_64"]
    )
    provider_status: Name | None = Field(
        None, description="Its status at the provider", examples=["Active"]
    )
    managed: bool = Field(
        False,
        description="Whether it is Rota's to set up and check; a new one is not, unless this says",
        examples=[True],
        json_schema_extra=without_default,
    )


class ServerList(Strict):
    """What a provider says of its servers."""

    provider: Handle = Field(description="Which provider, as a slug", examples=["time4vps"])
    servers: list[ServerItem] = Field(
        max_length=MOST, description="Its servers, or some of them; at most 5,000"
    )
    complete: bool = Field(
        False,
        description="Whether these are all that the provider has, so that others are gone",
        examples=[True],
    )
    cycle: Annotated[Text, Field(max_length=200)] | None = Field(
        None,
        description="The sweep's name; sent again, it names again what went missing in it",
        examples=["2026-03-01T07:00:00Z"],
    )
    allow_mass_change: bool = Field(
        False,
        description="Whether more than half may become missing, or not managed, at once",
        examples=[False],
    )
    listed_at: Instant | None = listings.listed_at()


class ServersWritten(BaseModel):
    """What became of each server, by its handle."""

    created: list[str] = Field(description="New ones", examples=[[HANDLE]])
    updated: list[str] = Field(description="Those of which something differed", examples=[[HANDLE]])
    unchanged: list[str] = Field(description="Those that were so already", examples=[[HANDLE]])
    gone: list[str] = Field(description="Those that are missing now", examples=[[HANDLE]])
    returned: list[str] = Field(
        description="Those that were missing, and are back", examples=[[HANDLE]]
    )
    demoted: list[str] = Field(description="Those that are no longer managed", examples=[[HANDLE]])


class ServerPatch(Strict):
    """What is to change of a server; what is left out stays as it is."""

    status: Status = Field(
        "active",
        description="What it is doing; `pending_setup` has a managed one set up",
        examples=["maintenance"],
        json_schema_extra=without_default,
    )
    notes: Annotated[Text, Field(max_length=16384)] | None = Field(
        None, description="For people", examples=["The old shop."]
    )
    labels: fleet.Labels = Field(
        {},
        description="For programs; all of them, at most 100",
        examples=[{"role": "web"}],
        json_schema_extra=without_default,
    )
    ssh_user: fleet.User = Field(
        "root",
        description="Who to log in as",
        examples=["root"],
        json_schema_extra=without_default,
    )
    ssh_port: fleet.Port = Field(
        22, description="At which port", examples=[22], json_schema_extra=without_default
    )
    managed: bool = Field(
        True,
        description="Whether it is Rota's to set up and check",
        examples=[True],
        json_schema_extra=without_default,
    )
    maintenance_from: Instant | None = Field(
        None,
        description="When maintenance begins; null: now, if it has an end",
        examples=[documents.INSTANT],
    )
    maintenance_until: Instant | None = Field(
        None,
        description="When it ends; null: not before further notice, if it has a beginning",
        examples=["2026-03-01T09:00:00Z"],
    )
    public_ip: fleet.Address | None = Field(
        None, description="Its address, of IPv4 or IPv6", examples=["203.0.113.7"]
    )
    host: fleet.Host | None = Field(None, description="Its name", examples=["web-1.example.com"])


class NewServer(ServerPatch):
    """A server that no provider lists."""

    handle: Handle = Field(description="How it is addressed", examples=["web-1"])


class Servers(Page):
    """A part of a tenant's servers."""

    items: list[fleet.Server] = Field(description="The servers, by handle")


class ServerChange(BaseModel):
    """A change of a server's status."""

    id: int = Field(description="Its number; later ones are greater", examples=[812])
    at: datetime = Field(description="When", examples=[documents.INSTANT])
    who: str = Field(
        description="The name of the token, or of the database's user for one by SQL",
        examples=["health"],
    )
    before: Status | None = Field(
        description="The status that it had; null where it was made", examples=["active"]
    )
    after: Status | None = Field(description="The status that it got", examples=["unreachable"])


class ServerChanges(Page):
    """A part of the changes of a server's status."""

    items: list[ServerChange] = Field(description="The changes, the latest first")


@router.put("", response_model=ServersWritten, responses=declared(404, 409))
async def put_servers(
    request: Request, tenant: TenantSlug, caller: Recorder, body: ServerList
) -> Response:
    """Write servers as their provider lists them, all of them or none.

    A server is known by its `provider_id`; one whose id is not among these, or that has none, by
    its address, unless that is missing or decommissioned. A new one is `pending_setup` if it is
    managed, else `reserved`; but `active` if it is managed and at the address of a server that is
    there already. More than half of a provider's servers, and at least 5, do not become missing
    at once, nor those that are managed not managed: that is a 409, unless `allow_mass_change`. So
    is a list that was asked for before one that has been written: `errors` names `listed_at`.
    """
    listed = servers.Listed(
        body.provider,
        [one.model_dump(exclude_unset=True) for one in body.servers],
        body.complete,
        body.cycle,
        body.allow_mass_change,
        listings.check(body.listed_at),
    )
    try:
        with fleet.existing(tenant), listings.in_order(body.provider):
            written = await servers.put(state_of(request).engine, tenant, listed, caller.name)
    except servers.Unfit as error:
        raise unfit(f"servers.{error.number}.{error.field}: {error}") from None
    except servers.MassChange as mass:
        said = (
            f"mass-change: {mass} at once, and nothing was written. If that is so, say "
            "allow_mass_change"
        )
        raise Refused(409, f"{said}.", [("allow_mass_change", said)]) from None
    return documents.answer({name: getattr(written, name) for name in ServersWritten.model_fields})


@router.get("", response_model=Servers, responses=declared(404))
async def list_servers(
    request: Request,
    tenant: TenantSlug,
    caller: Anybody,
    paging: Paging,
    status: Annotated[
        list[Status] | None,
        Query(
            max_length=20, description="Their status; several may be named", examples=[["ready"]]
        ),
    ] = None,
    managed: Annotated[
        bool | None, Query(description="Whether they are managed", examples=[True])
    ] = None,
    provider: Annotated[
        str | None, Query(max_length=63, description="Their provider", examples=["time4vps"])
    ] = None,
    q: Annotated[
        str | None,
        Query(max_length=255, description="A part of handle, host or address", examples=["web"]),
    ] = None,
) -> Response:
    """List the servers of a tenant."""
    sought = [one and one.replace("\0", "\N{REPLACEMENT CHARACTER}") for one in (provider, q)]
    rows = servers.rows(tenant, servers.Wanted(status or (), managed, *sought))
    return await lists.answer(request, tenant, paging, rows, (Row.handle,), fleet.server)


@router.post("", response_model=fleet.Server, status_code=201, responses=declared(404, 409))
async def create_server(
    request: Request, tenant: TenantSlug, caller: Recorder, body: NewServer
) -> Response:
    """Make a server by hand, of the provider `manual`; it is managed unless `managed` says not."""
    values = body.model_dump(exclude_unset=True)
    with fleet.existing(tenant):
        row = await servers.create(state_of(request).engine, tenant, values, caller.name)
    if row is None:
        said = f"There is a server {body.handle!r} already."
        raise Refused(409, said, [("handle", "it is taken")])
    location = f"{request.url.path}/{row.handle}"
    return documents.answer(fleet.server(row), 201, {"Location": location})


@router.get("/{handle}", response_model=fleet.Server, responses=declared(404))
async def get_server(
    request: Request, tenant: TenantSlug, caller: Anybody, handle: HandlePath
) -> Response:
    """Read one server."""
    return documents.answer(fleet.server(await _find(request, tenant, handle)))


@router.patch("/{handle}", response_model=fleet.Server, responses=declared(404))
async def patch_server(
    request: Request, tenant: TenantSlug, caller: Recorder, handle: HandlePath, body: ServerPatch
) -> Response:
    """Change what the body names of a server."""
    values = body.model_dump(exclude_unset=True)
    with fleet.existing(tenant):
        row = await servers.change(state_of(request).engine, tenant, handle, values, caller.name)
    if row is None:
        raise fleet.no_server(handle)
    return documents.answer(fleet.server(row))


@router.delete("/{handle}", status_code=204, responses=declared(404, 409))
async def delete_server(
    request: Request, tenant: TenantSlug, caller: Recorder, handle: HandlePath
) -> Response:
    """Delete a server, and its incidents.

    One that was not made by hand has to be missing, reserved or decommissioned, else it is a 409:
    its provider lists it, and it would come back as new, to be set up.
    """
    try:
        with fleet.existing(tenant):
            gone = await servers.remove(state_of(request).engine, tenant, handle, caller.name)
    except servers.StillThere as error:
        said = (
            f"{handle} is {error.status}, and would be set up anew if it were deleted: set its "
            "status to decommissioned; its provider lists it."
        )
        raise Refused(409, said, [("status", "set it to decommissioned")]) from None
    if not gone:
        raise fleet.no_server(handle)
    return Response(status_code=204)


@router.get("/{handle}/changes", response_model=ServerChanges, responses=declared(404))
async def list_server_changes(
    request: Request, tenant: TenantSlug, caller: Anybody, handle: HandlePath, paging: Paging
) -> Response:
    """Tell who gave a server which status, and when; the latest first."""
    found = await _find(request, tenant, handle)
    return await lists.answer(
        request,
        tenant,
        paging,
        servers.changes(found.id),
        (ChangeRow.id,),
        lambda row: {name: getattr(row, name) for name in ServerChange.model_fields},
        newest=True,
    )


async def _find(request: Request, tenant: str, handle: str) -> Row:
    found = await servers.get(state_of(request).engine, tenant, handle)
    if found is None:
        raise fleet.no_server(handle)
    return found
