"""`/tenants/{tenant}/search`: what the documents of a tenant say about something."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents
from api.access import Anybody, TenantSlug, no_tenant
from api.problems import declared, unfit
from api.project_documents import URI
from api.projects import ID
from api.state import State, state_of
from store import search, tenants
from store.search import Asked, Meaning

router = APIRouter(prefix="/tenants/{tenant}/search", tags=["records"])

MOST = 50
MOST_WORDS = 32

By = Literal["word", "meaning"]


class Hit(BaseModel):
    """A piece of a document that fits."""

    project: UUID = Field(description="Its project's id", examples=[ID])
    project_name: str = Field(description="Its project's name", examples=["shop"])
    document: UUID = Field(description="Its document's id", examples=[ID])
    path: str = Field(description="Where that stands in the project", examples=["docs/install.md"])
    uri: str | None = Field(description="The document's address", examples=[URI])
    heading: str = Field(description="What it stands under", examples=["Install > Docker"])
    start_line: int = Field(description="The line that it begins in, from 1", examples=[1])
    end_line: int = Field(description="The line that it ends in", examples=[24])
    text: str = Field(description="The piece itself", examples=["Run `docker compose up`."])
    score: float = Field(
        description="How well it fits, by its places in the rankings; higher is better",
        examples=[0.0328],
    )
    by: list[By] = Field(description="The rankings that it stands in", examples=[["word"]])


class Hits(BaseModel):
    """What was found."""

    items: list[Hit] = Field(description="The pieces, the best first")
    by: list[By] = Field(
        description="How it was searched: by word, and by meaning where there are vectors",
        examples=[["word", "meaning"]],
    )


@router.get("", response_model=Hits, responses=declared(404))
async def search_documents(
    request: Request,
    tenant: TenantSlug,
    caller: Anybody,
    q: Annotated[
        str,
        Query(
            min_length=1,
            max_length=1000,
            description='Words, "phrases", `or`, and `-word` for what is not to be there; at '
            "most 32 words",
            examples=["install docker"],
        ),
    ],
    limit: Annotated[int, Query(ge=1, le=MOST, description="The most pieces", examples=[10])] = 10,
    project: Annotated[
        UUID | None, Query(description="In this project's documents only, its id", examples=[ID])
    ] = None,
) -> Response:
    """Search the documents of a tenant, by word and by meaning.

    Both rankings are put together by reciprocal rank fusion. By meaning takes vectors, and an
    embedder that this API can ask; `by` says whether that was so.
    """
    state = state_of(request)
    if (words := len(re.findall(r"[^\W_]+", q))) > MOST_WORDS:
        raise unfit(f"q: it has {words} words; use at most {MOST_WORDS}")
    asked = Asked(tenant, q.replace("\0", " "), limit, project)
    meaning = await _meaning(state, asked)
    try:
        found = await search.search(state.engine, asked, meaning)
    except search.TooMuch:
        raise unfit("q: it finds too much; use fewer or rarer words") from None
    if not found and await tenants.find(state.engine, tenant) is None:
        raise no_tenant(tenant)
    items = [{name: one[name] for name in Hit.model_fields} for one in found]
    return documents.answer({"items": items, "by": ["word", *(["meaning"] if meaning else [])]})


async def _meaning(state: State, asked: Asked) -> Meaning | None:
    if state.embed is None:
        return None
    name = await search.embedder(state.engine, asked)
    vector = None if name is None else await state.embed(name, asked.q)
    return Meaning(name, vector) if name is not None and vector else None
