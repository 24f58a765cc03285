"""`/audit`: who wrote what, and when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents
from api.access import Reader
from api.paging import Page, Paging, bad_cursor, keyed, numbered
from api.problems import declared
from api.state import state_of
from deployments.entry import Instant
from deployments.explain import masked
from store import audit

router = APIRouter(tags=["operations"])

_LARGEST = 2**63

Kind = Literal[
    "definition",
    "tenant",
    "token",
    "job",
    "setting",
    "action",
    "step_template",
]


class Write(BaseModel):
    """One write."""

    id: int = Field(description="Its number; later ones are greater", examples=[812])
    at: datetime = Field(description="When", examples=[documents.INSTANT])
    who: str = Field(
        description="The name of the token, or of the database's user for one by SQL",
        examples=["ci"],
    )
    operation: Literal["insert", "update", "delete", "truncate"] = Field(
        description="What was done", examples=["update"]
    )
    kind: Kind = Field(description="What it was done to", examples=["definition"])
    tenant: str | None = Field(description="Of which tenant", examples=["acme"])
    name: str | None = Field(description="Its name", examples=["nightly-sync"])
    before: dict[str, Any] | None = Field(
        description="What stood there, secrets masked; null where it was created",
        examples=[{"cron": "0 3 * * *"}],
    )
    after: dict[str, Any] | None = Field(
        description="What stands there, secrets masked; null where it was deleted",
        examples=[{"cron": "0 4 * * *"}],
    )


class Writes(Page):
    """A part of the audit."""

    items: list[Write] = Field(description="The writes, the latest first")


@router.get("/audit", response_model=Writes, responses=declared())
async def list_audit(
    request: Request,
    caller: Reader,
    paging: Paging,
    tenant: Annotated[
        str | None, Query(max_length=63, description="Of this tenant", examples=["acme"])
    ] = None,
    kind: Annotated[
        Kind | None,
        Query(description="Of what", examples=["definition"]),
    ] = None,
    name: Annotated[
        str | None, Query(max_length=255, description="Of this name", examples=["nightly-sync"])
    ] = None,
    who: Annotated[
        str | None, Query(max_length=63, description="By this caller", examples=["ci"])
    ] = None,
    since: Annotated[
        Instant | None, Query(description="Then or later", examples=[documents.INSTANT])
    ] = None,
    until: Annotated[
        Instant | None, Query(description="Then or earlier", examples=[documents.INSTANT])
    ] = None,
) -> Response:
    """Tell who wrote what, the latest first; for a token of one tenant, of that tenant only."""
    engine = state_of(request).engine
    foreign = caller.tenant is not None and tenant not in (None, caller.tenant)
    nothing = foreign or any("\0" in (one or "") for one in (tenant, name, who))
    wanted = audit.Wanted(caller.tenant or tenant, kind, name, who, since, until)
    if paging.number is None:
        after, before = _key(paging.after, "after"), _key(paging.before, "before")
        rows = (
            []
            if nothing
            else await audit.listed(engine, wanted, paging.size + 1, after=after, before=before)
        )
        return documents.answer(keyed(paging, rows, lambda row: [row["id"]], _shown))
    if nothing:
        return documents.answer(numbered(paging, [], 0))
    rows = await audit.listed(engine, wanted, paging.size, paging.offset)
    total = await audit.counted(engine, wanted)
    return documents.answer(numbered(paging, [_shown(row) for row in rows], total))


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return dict(row) | {"before": masked(row["before"]), "after": masked(row["after"])}


def _key(key: list[Any] | None, field: str) -> int | None:
    if key is None:
        return None
    if len(key) == 1 and type(key[0]) is int and 0 <= key[0] < _LARGEST:
        return key[0]
    raise bad_cursor(field)
