"""`/tenants/{tenant}/checkpoints`: what duties want to know at their next run."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy.exc import NoResultFound

from api import documents
from api.access import Anybody, Recorder, TenantSlug, no_tenant
from api.problems import Refused, declared
from api.state import state_of
from deployments.entry import DEEPEST, Instant, Strict
from deployments.yaml_text import is_json
from store import checkpoints
from store.records import Checkpoint as Row

# A key may hold slashes, quoted or not.
router = APIRouter(prefix="/tenants/{tenant}/checkpoints/{key:path}", tags=["records"])

MOST_BYTES = 512 * 1024
KEY = r"^[a-z0-9][a-z0-9._:/-]*$"
EXAMPLE = {"etag": 'W/"5e0a"', "position": 412}

Key = Annotated[
    str,
    Path(
        pattern=KEY,
        max_length=200,
        description="Its name: lower-case letters, digits and . _ : / -, URL-quoted",
        examples=["github:acme"],
    ),
]


def storable(value: Any, most_bytes: int = MOST_BYTES) -> Any:
    """Return a value of JSON that the database can hold.

    Raises:
        ValueError: It cannot.
    """
    if _is_deeper(value, DEEPEST):
        raise ValueError(f"is nested more than {DEEPEST} deep")
    if why := is_json(value):
        raise ValueError(f"cannot be stored: {why}")
    if len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) > most_bytes:
        raise ValueError(f"is larger than {most_bytes >> 10} KiB as text")
    return value


def _is_deeper(value: Any, most: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(inner) and (most == 0 or any(_is_deeper(one, most - 1) for one in inner))


class Value(Strict):
    """What is to be kept."""

    value: Annotated[Any, AfterValidator(storable)] = Field(
        description="Any JSON, at most 512 KiB as text", examples=[EXAMPLE]
    )
    replaces: Instant | None = Field(
        None,
        description="The `updated_at` of what this takes the place of; if something else is there "
        "by now, a 409 says so. Without it, whatever is there is replaced",
        examples=[documents.INSTANT],
    )


class Checkpoint(BaseModel):
    """What a duty has kept."""

    key: str = Field(description="Its name", examples=["github:acme"])
    value: Any = Field(description="What is kept", examples=[EXAMPLE])
    updated_at: datetime = Field(
        description="When it was last written", examples=[documents.INSTANT]
    )


@router.get("", response_model=Checkpoint, responses=declared(404))
async def get_checkpoint(
    request: Request, tenant: TenantSlug, caller: Anybody, key: Key
) -> Response:
    """Read a checkpoint."""
    row = await checkpoints.get(state_of(request).engine, tenant, key)
    if row is None:
        raise _missing(key)
    return documents.answer(_shown(row))


@router.put("", response_model=Checkpoint, responses=declared(404, 409))
async def put_checkpoint(
    request: Request, tenant: TenantSlug, caller: Recorder, key: Key, body: Value
) -> Response:
    """Write a checkpoint, whatever stood there unless `replaces` says what."""
    engine = state_of(request).engine
    try:
        row = await checkpoints.put(engine, tenant, key, body.value, body.replaces)
    except NoResultFound:
        raise no_tenant(tenant) from None
    except checkpoints.Changed:
        raise Refused(
            409,
            f"The checkpoint {key!r} is not the one any more that this replaces; read it again.",
        ) from None
    return documents.answer(_shown(row))


@router.delete("", status_code=204, responses=declared(404))
async def delete_checkpoint(
    request: Request, tenant: TenantSlug, caller: Recorder, key: Key
) -> Response:
    """Delete a checkpoint."""
    try:
        gone = await checkpoints.remove(state_of(request).engine, tenant, key)
    except NoResultFound:
        raise no_tenant(tenant) from None
    if not gone:
        raise _missing(key)
    return Response(status_code=204)


def _missing(key: str) -> Refused:
    return Refused(404, f"There is no checkpoint {key!r}.")


def _shown(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Checkpoint.model_fields}
