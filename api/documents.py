"""What the API takes and answers, as OpenAPI describes it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from fastapi.responses import Response
from pydantic import BaseModel, Field, create_model, model_validator

from api.paging import Page
from deployments.entry import SLUG, Entry, Strict, Text

INSTANT = "2026-03-01T07:00:00Z"
STATE = "problem, suspended, paused, waiting (for its deployment), or active"
State = Literal["problem", "suspended", "paused", "waiting", "active"]


class _Status(BaseModel):
    id: UUID = Field(
        description="The definition's id", examples=["0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"]
    )
    tenant: str = Field(description="Its tenant's slug", examples=["acme"])
    reference: str = Field(
        description="How people and programs address it", examples=["acme/nightly-sync"]
    )
    state: State = Field(description=STATE, examples=["active"])
    problem: str | None = Field(
        description="Why it cannot be carried out, and what to do; null where it can",
        examples=["duty: no duty is named 'sync'; there are workflow_run"],
    )
    revision: int = Field(
        description="Counts the changes by its users, from 1; part of its ETag", examples=[3]
    )
    created_at: datetime = Field(description="When it was created", examples=[INSTANT])
    updated_at: datetime = Field(description="When a user last changed it", examples=[INSTANT])
    created_by: str | None = Field(description="Who created it", examples=["ci"])
    deployment_id: UUID | None = Field(
        description="Prefect's id of its deployment; null until there is one",
        examples=["3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60"],
    )
    applied_at: datetime | None = Field(
        description="When the deployment was last written", examples=[INSTANT]
    )
    next_run_at: datetime | None = Field(
        description="Its next occurrence; null where there is none", examples=[INSTANT]
    )
    last_run_at: datetime | None = Field(
        description="When its latest run that has ended started", examples=[INSTANT]
    )
    last_status: str | None = Field(
        description="How that ended, as Prefect names it", examples=["Completed"]
    )
    run_count: int = Field(description="Runs that have ended", examples=[412])
    failures: int = Field(
        description="The latest of them that failed, in a row; a resume begins anew", examples=[0]
    )


_FIELDS: dict[str, Any] = {
    name: (
        field.annotation,
        Field(description=f"As it was written: {field.description}", examples=field.examples),
    )
    for name, field in Entry.model_fields.items()
}
Definition = create_model("Definition", __base__=_Status, **_FIELDS)
Definition.__doc__ = "A definition: what its user wrote, and what became of it."


class Replacement(Entry):
    """All that a definition says; what is left out has its default.

    What a GET gave can be put back: what is Rota's own in it is not read.
    """

    name: str | None = Field(  # type: ignore[assignment]
        None, description="the name of the path, or nothing", examples=["nightly-sync"]
    )

    @model_validator(mode="before")
    @classmethod
    def _without_status(cls, said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        return {key: value for key, value in said.items() if key not in _Status.model_fields}


class Definitions(Page):
    """A part of a tenant's definitions."""

    items: list[Definition] = Field(description="The definitions")


class Tenant(BaseModel):
    """An organization whose definitions are kept apart."""

    slug: str = Field(description="How it is addressed", examples=["acme"])
    title: str | None = Field(description="For people", examples=["Acme Corporation"])
    suspended: bool = Field(description="Whether nothing of it starts", examples=[False])
    suspended_reason: str | None = Field(description="Why", examples=["Unpaid invoices"])
    suspended_at: datetime | None = Field(description="Since when", examples=[INSTANT])
    definitions: int = Field(description="How many definitions it has", examples=[12])
    problems: int = Field(description="How many of them have a problem", examples=[0])


class Tenants(Page):
    """A part of the tenants."""

    items: list[Tenant] = Field(description="The tenants, by slug")


class TenantBody(Strict):
    """A tenant as it is to be."""

    title: Text | None = Field(
        None, max_length=255, description="For people; null for none", examples=["Acme Corporation"]
    )


class NewTenant(TenantBody):
    """A tenant that is to be created."""

    slug: str = Field(
        pattern=f"^{SLUG}$",
        max_length=63,
        description="Lower-case letters, digits and single dashes, at most 63",
        examples=["acme"],
    )


class Suspension(Strict):
    """Why a tenant is suspended."""

    reason: Text | None = Field(
        None, max_length=1024, description="Why, for people", examples=["Unpaid invoices"]
    )


_OPTIONAL = {
    key: value
    for key, value in Entry.model_json_schema(ref_template="#/components/schemas/{model}").items()
    if key not in ("required", "$defs")
}
PATCH: dict[str, Any] = {
    "required": True,
    "content": {
        "application/merge-patch+json": {"schema": _OPTIONAL},
        "application/json": {"schema": _OPTIONAL},
    },
}
"""The body of a PATCH: some of what a definition says."""


def answer(
    document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a document as it is sent, instants in UTC with a Z."""
    content = orjson.dumps(document, default=_plain, option=orjson.OPT_UTC_Z)
    return Response(content, status, dict(headers or {}), "application/json")


def definition(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of definitions, which knows its `state` and `reference`, as a document."""
    return {name: row[name] for name in _COLUMNS}


_COLUMNS = tuple(Definition.model_fields)


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):  # a subclass of asyncpg's, which orjson does not know
        return str(value)
    raise TypeError(type(value).__name__)
