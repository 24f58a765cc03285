"""`/tenants/{tenant}/projects`: a tenant's repositories, as sweeps of their sources find them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy.exc import NoResultFound

from api import documents, listings, lists
from api.access import Anybody, Recorder, TenantSlug, no_tenant
from api.paging import Page, Paging
from api.problems import Refused, declared, unfit
from api.state import state_of
from deployments.entry import Instant, Parameters, Strict, Text
from store import projects
from store.records import Project as Row

router = APIRouter(prefix="/tenants/{tenant}/projects", tags=["records"])

MOST = 1000
"""Items in one call."""
MOST_PRESENT = 100_000
SPEC_BYTES = 256 * 1024

ID = "0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"
SPEC = {"name": "shop", "owner": "payments"}

Status = Literal["discovered", "active", "missing", "archived"]
Visibility = Literal["public", "private", "internal"]
RepositoryId = Annotated[int, Field(ge=1, lt=2**63)]
ProjectId = Annotated[UUID, Path(description="The project's id", examples=[ID])]


def _named_alike(source: str) -> str:
    provider, colon, whose = source.partition(":")
    return f"{provider.lower()}{colon}{whose}"


Source = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=200),
    AfterValidator(_named_alike),
]


def _small(spec: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode()) > SPEC_BYTES:
        raise ValueError("is larger than 256 KiB as text")
    return spec


def left_out(schema: dict[str, Any]) -> None:
    """Take the default out of a field's schema: what is left out stays as it is."""
    schema.pop("default", None)


class Item(Strict):
    """A project as its source has it; what is left out stays as it is."""

    repository_id: RepositoryId = Field(
        description="Its id at the provider, which stays when it is renamed", examples=[1296269]
    )
    name: Text = Field(
        min_length=1, max_length=255, description="Its name there", examples=["shop"]
    )
    full_name: Text | None = Field(
        None, max_length=511, description="Its name with its owner's", examples=["acme/shop"]
    )
    description: Text | None = Field(
        None, max_length=16384, description="What it is, in a line or so", examples=["The web shop"]
    )
    topics: list[Annotated[Text, Field(max_length=255)]] = Field(
        [],
        max_length=100,
        description="Its topics there",
        examples=[["python", "shop"]],
        json_schema_extra=left_out,
    )
    default_branch: Text | None = Field(
        None, max_length=255, description="The branch that its files are read of", examples=["main"]
    )
    visibility: Visibility | None = Field(
        None, description="Who can see it there: public, private, internal", examples=["private"]
    )
    archived: bool = Field(
        False,
        description="Whether it is archived there; then its status is archived as well",
        examples=[False],
        json_schema_extra=left_out,
    )
    pushed_at: Instant | None = Field(
        None, description="When something was last pushed to it", examples=[documents.INSTANT]
    )
    url: Text | None = Field(
        None,
        max_length=2048,
        description="Its address, for people",
        examples=["https://github.com/acme/shop"],
    )


class Sweep(Strict):
    """What a source was found to have."""

    source: Source = Field(
        description="Where: the provider, in whatever case, a colon, and whose they are",
        examples=["github:acme"],
    )
    projects: list[Item] = Field(
        max_length=MOST, description="What was found, or what of it has changed; at most 1,000"
    )
    present: list[RepositoryId] | None = Field(
        None,
        max_length=MOST_PRESENT,
        description=(
            "The repository ids of all that the source has, those of `projects` or not: what is in "
            "neither becomes missing. null: nothing becomes missing. At most 100,000"
        ),
        examples=[[1296269, 1296270]],
    )
    cycle: Text | None = Field(
        None,
        max_length=200,
        description="The sweep's name, by which it counts once, however often it is sent",
        examples=["2026-03-01T07:00:00Z"],
    )
    archive_after: int = Field(
        3,
        ge=1,
        le=1000,
        description="In how many sweeps on end a project is missing when it is archived",
        examples=[3],
    )
    allow_mass_change: bool = Field(
        False,
        description="Whether more than half of the source may become missing at once",
        examples=[False],
    )
    listed_at: Instant | None = listings.listed_at()


class Swept(BaseModel):
    """What became of each project, by its name."""

    created: list[str] = Field(description="New ones", examples=[["shop"]])
    updated: list[str] = Field(description="Those that differed", examples=[["site"]])
    unchanged: list[str] = Field(description="Those that were so already", examples=[["api"]])
    gone: list[str] = Field(
        description="Those that are archived now, for they were missing too often",
        examples=[["old"]],
    )
    missing: list[str] = Field(
        description="Those of the source that were not found", examples=[["tools"]]
    )
    returned: list[str] = Field(
        description="Those that were missing, or archived for it, and are back", examples=[["docs"]]
    )


class Change(Strict):
    """What a project's files say of it; what is left out stays as it is."""

    spec: Annotated[Parameters, AfterValidator(_small)] | None = Field(
        None,
        description="Its `.project-spec.yaml`, at most 256 KiB as text; null for none",
        examples=[SPEC],
    )
    spec_problem: Text | None = Field(
        None,
        max_length=16384,
        description="Why that cannot be read; null where it can",
        examples=["owner: it is missing"],
    )
    summary: Text | None = Field(
        None, max_length=65536, description="What it is, in short", examples=["Sells things."]
    )
    content_pushed_at: Instant | None = Field(
        None,
        description="The push up to which its files were read",
        examples=[documents.INSTANT],
    )
    status: Status = Field(
        "active",
        description="How it is; a sweep leaves one archived here as it is",
        examples=["archived"],
        json_schema_extra=left_out,
    )


class Project(BaseModel):
    """A repository of the tenant's."""

    id: UUID = Field(description="Its id here", examples=[ID])
    tenant: str = Field(description="The tenant's slug", examples=["acme"])
    source: str = Field(description="Where it was found", examples=["github:acme"])
    repository_id: int | None = Field(
        description="Its id at the provider; null for one that no sweep has found",
        examples=[1296269],
    )
    name: str = Field(description="Its name there", examples=["shop"])
    full_name: str | None = Field(description="Its name with its owner's", examples=["acme/shop"])
    description: str | None = Field(description="What it is", examples=["The web shop"])
    topics: list[str] = Field(description="Its topics there", examples=[["python", "shop"]])
    default_branch: str | None = Field(
        description="The branch that its files are read of", examples=["main"]
    )
    visibility: Visibility | None = Field(description="Who can see it there", examples=["private"])
    archived: bool = Field(description="Whether it is archived there", examples=[False])
    pushed_at: datetime | None = Field(
        description="When something was last pushed to it", examples=[documents.INSTANT]
    )
    url: str | None = Field(description="Its address", examples=["https://github.com/acme/shop"])
    status: Status = Field(
        description="active, missing at its source, archived, or discovered", examples=["active"]
    )
    missing_cycles: int = Field(
        description="In how many sweeps on end it was missing; the last of them, if it is archived",
        examples=[0],
    )
    content_pushed_at: datetime | None = Field(
        description="The push up to which its files were read", examples=[documents.INSTANT]
    )
    spec: dict[str, Any] | None = Field(
        description="Its `.project-spec.yaml`; null for none", examples=[SPEC]
    )
    spec_problem: str | None = Field(
        description="Why that cannot be read; null where it can", examples=["owner: it is missing"]
    )
    summary: str | None = Field(description="What it is, in short", examples=["Sells things."])
    created_at: datetime = Field(description="When it was created", examples=[documents.INSTANT])
    updated_at: datetime = Field(
        description="When something of it last changed", examples=[documents.INSTANT]
    )
    last_seen_at: datetime = Field(
        description="When its source last had it", examples=[documents.INSTANT]
    )


class Projects(Page):
    """A part of a tenant's projects."""

    items: list[Project] = Field(description="The projects, by name")


@router.put("", response_model=Swept, responses=declared(404, 409))
async def put_projects(
    request: Request, tenant: TenantSlug, caller: Recorder, body: Sweep
) -> Response:
    """Write what a source was found to have, all of it or nothing.

    A project is known by its repository id, or, where none of that id is there yet, by its name if
    it has no repository id. More than half of a source's projects, and at least 5, do not become
    missing at once: that is a 409, unless `allow_mass_change`. So is a list that was asked for
    before one that has been written: `errors` names `listed_at`.
    """
    _check_unique([one.repository_id for one in body.projects])
    found = projects.Sweep(
        body.source,
        [one.model_dump(exclude_unset=True) for one in body.projects],
        None if body.present is None else frozenset(body.present),
        body.cycle,
        body.archive_after,
        body.allow_mass_change,
        listings.check(body.listed_at),
    )
    try:
        with listings.in_order(body.source):
            swept = await projects.sweep(state_of(request).engine, tenant, found)
    except NoResultFound:
        raise no_tenant(tenant) from None
    except projects.MassChange as mass:
        raise _too_many(mass, body.source) from None
    return documents.answer({name: getattr(swept, name) for name in Swept.model_fields})


@router.get("", response_model=Projects, responses=declared(404))
async def list_projects(
    request: Request,
    tenant: TenantSlug,
    caller: Anybody,
    paging: Paging,
    status: Annotated[Status | None, Query(description="How they are", examples=["active"])] = None,
    source: Annotated[
        str | None,
        Query(max_length=200, description="Where they were found", examples=["github:acme"]),
    ] = None,
    q: Annotated[
        str | None, Query(max_length=255, description="A part of the name", examples=["shop"])
    ] = None,
) -> Response:
    """List the projects of a tenant."""
    source = source and _named_alike(source)
    sought = [one and one.replace("\0", "\N{REPLACEMENT CHARACTER}") for one in (source, q)]
    rows = projects.wanted(tenant, status, *sought)
    return await lists.answer(request, tenant, paging, rows, (Row.name, Row.id), _shown)


@router.get("/{project_id}", response_model=Project, responses=declared(404))
async def get_project(
    request: Request, tenant: TenantSlug, caller: Anybody, project_id: ProjectId
) -> Response:
    """Read one project."""
    row = await projects.get(state_of(request).engine, tenant, project_id)
    if row is None:
        raise no_project(project_id)
    return documents.answer(_shown(row))


@router.patch("/{project_id}", response_model=Project, responses=declared(404))
async def patch_project(
    request: Request, tenant: TenantSlug, caller: Recorder, project_id: ProjectId, body: Change
) -> Response:
    """Write what a project's files say of it, or its status."""
    values = body.model_dump(exclude_unset=True)
    row = await projects.change(state_of(request).engine, tenant, project_id, values)
    if row is None:
        raise no_project(project_id)
    return documents.answer(_shown(row))


def no_project(project_id: UUID) -> Refused:
    """Return the refusal of a project that is not there, or another tenant's."""
    return Refused(404, f"There is no project {project_id} of this tenant.")


def _shown(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Project.model_fields}


def _check_unique(ids: list[int]) -> None:
    first: dict[int, int] = {}
    for number, one in enumerate(ids):
        if one in first:
            raise unfit(
                f"projects.{number}.repository_id: {one} is that of projects.{first[one]} as well; "
                "send each once"
            )
        first[one] = number


def _too_many(mass: projects.MassChange, source: str) -> Refused:
    said = (
        f"mass-change: {mass.missing} of the {mass.of} projects of {source} that are there "
        "would become missing at once, and nothing was written. If they are gone, say "
        "allow_mass_change"
    )
    return Refused(409, f"{said}.", [("allow_mass_change", said)])
