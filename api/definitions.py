"""`/tenants/{tenant}/definitions`: reading them, and writing them one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from api import documents
from api.access import Editor, Reader, TenantSlug, check_power, no_tenant
from api.paging import Paging, bad_cursor, keyed, numbered, text_key
from api.problems import Refused, declared, unfit
from api.state import State, state_of
from deployments.desired import state_of as state_of_definition
from deployments.desired import want
from deployments.entry import Entry, Shallow
from deployments.roster_file import reasons
from store import definitions, tenants
from store.definitions import Locked, Order, Wanted
from store.models import Definition, Tenant
from store.tokens import Caller

router = APIRouter(prefix="/tenants/{tenant}/definitions", tags=["definitions"])

Name = Annotated[
    str,
    Path(description="The definition's name", examples=["nightly-sync"], max_length=200),
]
Match = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="Carry this out only if the definition still has this ETag; `*`: if it exists",
        examples=['"0190a3c2-3"'],
        max_length=200,
    ),
]
NoneMatch = Annotated[
    Literal["*"] | None,
    Header(
        alias="If-None-Match",
        description="`*`: only if there is no such definition yet",
        examples=["*"],
    ),
]


async def _wanted(
    q: Annotated[
        str | None,
        Query(max_length=63, description="A part of the name", examples=["sync"]),
    ] = None,
    duty: Annotated[
        str | None,
        Query(max_length=255, description="The duty", examples=["workflow_run"]),
    ] = None,
    enabled: Annotated[bool | None, Query(description="The field enabled", examples=[True])] = None,
    status: Annotated[
        documents.State | None, Query(description=documents.STATE, examples=["active"])
    ] = None,
) -> Wanted:
    # PostgreSQL takes no zero byte: instead, ask for what no name and no duty can have.
    sought, named = (one and one.replace("\0", "\N{REPLACEMENT CHARACTER}") for one in (q, duty))
    return Wanted(sought, named, enabled, status)


@router.get("", response_model=documents.Definitions, responses=declared(404))
async def list_definitions(
    request: Request,
    tenant: TenantSlug,
    caller: Reader,
    paging: Paging,
    wanted: Annotated[Wanted, Depends(_wanted)],
    order: Annotated[
        Literal["name", "created"],
        Query(description="By name, or the latest created first", examples=["name"]),
    ] = "name",
) -> Response:
    """List the definitions of a tenant."""
    engine = state_of(request).engine
    newest = order == "created"
    if paging.number is None:
        after, before = (_key(paging.after, newest, "after"), _key(paging.before, newest, "before"))
        asked = Order(newest, paging.size + 1, after=after, before=before)
        rows = await definitions.listed(engine, tenant, wanted, asked)
        page = keyed(paging, rows, _created if newest else _named, documents.definition)
    else:
        asked = Order(newest, paging.size, paging.offset)
        rows, total = await definitions.listed_and_counted(engine, tenant, wanted, asked)
        page = numbered(paging, [documents.definition(row) for row in rows], total)
    if not rows and await tenants.find(engine, tenant) is None:
        raise no_tenant(tenant)
    return documents.answer(page)


@router.post("", response_model=documents.Definition, status_code=201, responses=declared(404, 409))
async def create_definition(
    request: Request, tenant: TenantSlug, caller: Editor, body: Entry
) -> Response:
    """Create a definition. `watch` makes its deployment, within a second or so."""
    state = state_of(request)
    async with definitions.locked(state.engine, tenant, body.name, caller.name) as locked:
        if locked.tenant is None:
            raise no_tenant(tenant)
        if locked.row is not None:
            raise Refused(
                409,
                f"There is a definition {tenant}/{body.name} already; PUT replaces it.",
                [("name", "it is taken")],
            )
        row = await _create(state, locked, body, caller)
    location = f"{request.url.path}/{row.name}"
    return shown(row, locked.tenant, 201, {"Location": location})


@router.get("/{name}", response_model=documents.Definition, responses=declared(404))
async def get_definition(
    request: Request, tenant: TenantSlug, caller: Reader, name: Name
) -> Response:
    """Read one definition; its ETag is for If-Match."""
    row, owner = await find(state_of(request), tenant, name)
    return shown(row, owner)


@router.put(
    "/{name}",
    response_model=documents.Definition,
    responses={
        201: {"description": "It has been created", "model": documents.Definition},
        **declared(404, 409, 412),
    },
)
async def put_definition(
    request: Request,
    tenant: TenantSlug,
    caller: Editor,
    name: Name,
    body: documents.Replacement,
    if_match: Match = None,
    if_none_match: NoneMatch = None,
) -> Response:
    """Create a definition, or replace all that it says; what is left out has its default."""
    state = state_of(request)
    entry = _entry({**body.model_dump(exclude_unset=True), "name": _named_alike(name, body.name)})
    async with definitions.locked(state.engine, tenant, name, caller.name) as locked:
        if locked.tenant is None:
            raise no_tenant(tenant)
        _check_match(locked.row, if_match, if_none_match)
        if locked.row is None:
            row, status = await _create(state, locked, entry, caller), 201
        else:
            row, status = await _update(state, locked, entry, caller), 200
    return shown(row, locked.tenant, status)


@router.patch(
    "/{name}",
    response_model=documents.Definition,
    responses=declared(404, 412),
    openapi_extra={"requestBody": documents.PATCH},
)
async def patch_definition(
    request: Request,
    tenant: TenantSlug,
    caller: Editor,
    name: Name,
    body: Annotated[Shallow, Body()],
    if_match: Match = None,
) -> Response:
    """Change what the body names, as RFC 7396 has it: null gives a field its default."""
    state = state_of(request)
    _check_name(tenant, name)
    _named_alike(name, body.get("name"))
    async with definitions.locked(state.engine, tenant, name, caller.name) as locked:
        owner, there = _existing(locked, tenant, name, if_match)
        said = {key: getattr(there, key) for key in Entry.model_fields}
        strange = dict.fromkeys(body.keys() - said.keys())  # of which null removes nothing
        entry = _entry({**_merged(said, body), **strange, "name": name})
        row = await _update(state, locked, entry, caller)
    return shown(row, owner)


@router.delete("/{name}", status_code=204, responses=declared(404, 412))
async def delete_definition(
    request: Request, tenant: TenantSlug, caller: Editor, name: Name, if_match: Match = None
) -> Response:
    """Delete a definition; `watch` deletes its deployment and the runs that wait.

    Who deleted what, and when, stands in the audit, and in the view `delete_requests`.
    """
    state = state_of(request)
    _check_name(tenant, name)
    async with definitions.locked(state.engine, tenant, name, caller.name) as locked:
        _existing(locked, tenant, name, if_match)
        await locked.delete()
    return Response(status_code=204)


async def find(state: State, tenant: str, name: str) -> tuple[Definition, Tenant]:
    """Return a definition and its tenant.

    Raises:
        Refused: 404, there is no such one.
    """
    known = "\0" not in name
    found = await definitions.get(state.engine, tenant, name) if known else None
    if found is None and known:
        raise no_tenant(tenant)
    if found is None or found[1] is None:
        raise no_definition(tenant, name)
    return found[1], found[0]


def _check_name(tenant: str, name: str) -> None:
    if "\0" in name:
        raise no_definition(tenant, name)


def no_definition(tenant: str, name: str) -> Refused:
    """Return the refusal of a definition that is not there."""
    return Refused(404, f"There is no definition {f'{tenant}/{name[:63]}'!r}.")


def etag(row: Definition) -> str:
    """Return what changes whenever a user changes a definition, or makes another of its name."""
    return f'"{str(row.id)[:8]}-{row.revision}"'


def _existing(
    locked: Locked, tenant: str, name: str, match: str | None
) -> tuple[Tenant, Definition]:
    if locked.tenant is None:
        raise no_tenant(tenant)
    _check_match(locked.row, match)
    if locked.row is None:
        raise no_definition(tenant, name)
    return locked.tenant, locked.row


def _check_match(row: Definition | None, match: str | None, none_match: str | None = None) -> None:
    if none_match == "*" and row is not None:
        raise Refused(412, f"The definition {row.reference} exists; If-None-Match: * forbids that.")
    if match is None:
        return
    tags = [one.strip() for one in match.split(",")]
    if row is None or (match.strip() != "*" and etag(row) not in tags):
        now = f"it has {etag(row)} now" if row is not None else "it does not exist"
        raise Refused(412, f"The definition is not the one of If-Match; {now}. Read it again.")


def _named_alike(name: str, given: object) -> str:
    if given is not None and given != name:
        raise unfit(f"name: names do not change; the path says {name!r}. Create another instead")
    return name


def _merged(target: Any, patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with a merge patch applied, as RFC 7396 has it."""
    found = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _merged(found.get(key), value) if isinstance(value, Mapping) else value
    return found


def _entry(said: Mapping[str, Any]) -> Entry:
    try:
        return Entry.model_validate(said)
    except ValidationError as error:
        raise unfit(*(line.removeprefix(": ") for line in reasons("", error))) from None


async def _create(state: State, locked: Locked, entry: Entry, caller: Caller) -> Definition:
    assert locked.tenant is not None
    check_power(caller, {}, entry.job_variables, entry.duty)
    now = datetime.now(UTC)
    _check(state, locked.tenant.slug, entry, uuid4(), now, now)
    return await locked.create(entry.name, entry.values, caller.name)


async def _update(state: State, locked: Locked, entry: Entry, caller: Caller) -> Definition:
    row = locked.row
    assert row is not None
    check_power(caller, row.job_variables, entry.job_variables, entry.duty)
    if locked.differs(entry.values):  # or it was judged before, and a date may have passed since
        now = datetime.now(UTC)
        _check(state, row.tenant, entry, row.id, row.created_at, now, row.last_run_at)
    return await locked.update(entry.values)


def _check(
    state: State,
    tenant: str,
    entry: Entry,
    id_: UUID,
    created_at: datetime,
    at: datetime,
    last_run_at: datetime | None = None,
) -> None:
    """See that a definition could become a deployment.

    Raises:
        deployments.desired.Problem: It cannot.
    """
    judged = Definition(
        id=id_,
        tenant=tenant,
        name=entry.name,
        created_at=created_at,
        updated_at=at,
        last_run_at=last_run_at,
        **entry.values,
    )
    want(judged, state.rules, at)


def shown(
    row: Definition, owner: Tenant, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with a definition, and its ETag."""
    now = datetime.now(UTC)
    suspended = {owner.slug} if owner.suspended else set()
    said = {column.key: getattr(row, column.key) for column in Definition.__table__.columns}
    said |= {"state": state_of_definition(row, suspended, now), "reference": row.reference}
    document = documents.definition(said)
    return documents.answer(document, status, {"ETag": etag(row), **(headers or {})})


def _named(row: Mapping[str, Any]) -> list[Any]:
    return [row["name"]]


def _created(row: Mapping[str, Any]) -> list[Any]:
    return [row["created_at"], str(row["id"])]


def _key(key: list[Any] | None, newest: bool, field: str) -> tuple[Any, ...] | None:
    if key is None or not newest:
        return text_key(key, field)
    try:
        at, id_ = key
        created = datetime.fromisoformat(at)
        if created.utcoffset() is not None and 1900 <= created.year < 9000:
            return created, UUID(id_)
    except (ValueError, TypeError, AttributeError):
        pass
    raise bad_cursor(field)
