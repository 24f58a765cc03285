"""Whether the API lives, and whether all is there that it needs. No token is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from importlib import metadata

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents
from api.state import State, state_of
from deployments.watch import STALE_SECONDS
from store import database, status

router = APIRouter(tags=["health"])

SECONDS = 5.0
"""How long one check may take."""


class Alive(BaseModel):
    """That the process answers."""

    alive: bool = Field(description="true", examples=[True])


class Check(BaseModel):
    """One thing that the API needs."""

    name: str = Field(description="What", examples=["database"])
    holds: bool = Field(description="Whether it is there", examples=[True])
    says: str = Field(description="What was found", examples=["it answers"])


class Readiness(BaseModel):
    """Whether all is there."""

    ready: bool = Field(description="Whether every check holds", examples=[True])
    checks: list[Check] = Field(description="The checks")


class Version(BaseModel):
    """Which version runs."""

    version: str = Field(description="Rota's", examples=["0.1.0"])
    prefect: str = Field(description="That of Prefect's client", examples=["3.8.8"])
    revision: str = Field(description="Of the tables that it is made for", examples=["0004"])


@router.get("/healthz", response_model=Alive)
async def healthz() -> Response:
    """Tell that the process answers."""
    return documents.answer({"alive": True})


@router.get(
    "/readyz",
    response_model=Readiness,
    responses={503: {"description": "Something is missing", "model": Readiness}},
)
async def readyz(request: Request) -> Response:
    """Tell whether the database, its tables, Prefect and a leading `watch` are there."""
    state = state_of(request)
    # Anybody may ask, and however many do, one look at a time is taken for all of them.
    if state.readiness is None or state.readiness.done():
        state.readiness = asyncio.create_task(_look(state))
    found = await asyncio.shield(state.readiness)
    ready = all(one["holds"] for one in found)
    return documents.answer({"ready": ready, "checks": found}, 200 if ready else 503)


@router.get("/version", response_model=Version)
async def version() -> Response:
    """Tell which version runs."""
    versions = {"version": metadata.version("rota"), "prefect": metadata.version("prefect")}
    return documents.answer(versions | {"revision": database.newest()})


async def _look(state: State) -> list[dict[str, object]]:
    checks: dict[str, Callable[[State], Awaitable[tuple[bool, str]]]] = {
        "database": _database,
        "migrations": _migrations,
        "prefect": _prefect,
        "leader": _leader,
    }
    return await asyncio.gather(*(_check(name, check, state) for name, check in checks.items()))


async def _check(
    name: str, check: Callable[[State], Awaitable[tuple[bool, str]]], state: State
) -> dict[str, object]:
    try:
        async with asyncio.timeout(SECONDS):
            holds, says = await check(state)
    except Exception as error:  # whatever it is, it is no reason not to answer
        # Its text may name hosts and users, and anybody may ask.
        holds, says = False, f"it does not answer ({type(error).__name__})"
    return {"name": name, "holds": holds, "says": says}


async def _database(state: State) -> tuple[bool, str]:
    await database.revision(state.engine)
    return True, "it answers"


async def _migrations(state: State) -> tuple[bool, str]:
    found, known = await database.revision(state.engine), database.newest()
    return found == known, f"the tables are of revision {found}, this Rota is made for {known}"


async def _prefect(state: State) -> tuple[bool, str]:
    return True, f"version {await state.gateway.version()}"


async def _leader(state: State) -> tuple[bool, str]:
    found = await status.marked(state.engine, "watch")
    if found is None:
        return False, "no `rota watch` has ever run"
    age = found[0]
    return age < timedelta(seconds=STALE_SECONDS), f"heard of {age.total_seconds():.0f} s ago"
