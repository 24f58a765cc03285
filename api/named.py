"""Actions and step templates: what holds for both, which people name."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Header, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy.exc import NoResultFound

from api import documents, lists
from api.access import no_tenant
from api.paging import Paging
from api.problems import Refused, unfit
from api.state import state_of
from deployments.actions import Faulty
from deployments.entry import SLUG
from store import actions
from store.actions import Locked, Named
from store.steps import Action
from store.tokens import Caller

Body = TypeVar("Body")

NamePath = Annotated[str, Path(max_length=200, description="Its name", examples=["large-orders"])]
Sought = Annotated[
    str | None, Query(max_length=255, description="A part of the name", examples=["order"])
]
Match = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="Carry this out only if it still has this ETag; `*`: if it exists",
        examples=['"0190a3c2-3"'],
        max_length=200,
    ),
]
NoneMatch = Annotated[
    Literal["*"] | None,
    Header(alias="If-None-Match", description="`*`: only if there is none yet", examples=["*"]),
]


@dataclass(frozen=True)
class Collection(Generic[Named, Body]):
    """How a tenant's actions, or its step templates, are read and written.

    Attributes:
        row: What the database has of each.
        shown: What is shown of each.
        values: What a body gives of it, checked: it is told what is locked, the name and the body.
        users: What keeps one from being deleted, or None: likewise, with its name.
    """

    row: type[Named]
    shown: type[BaseModel]
    values: Callable[[Locked[Named], str, Body], Awaitable[Mapping[str, Any]]]
    users: Callable[[Locked[Named], str], Awaitable[str | None]]

    async def listed(
        self, request: Request, tenant: str, paging: Paging, q: str | None
    ) -> Response:
        """Answer with a part of the list, by name."""
        # PostgreSQL takes no zero byte.
        part = q and q.replace("\0", "\N{REPLACEMENT CHARACTER}")
        rows = actions.rows(self.row, tenant, part)
        return await lists.answer(request, tenant, paging, rows, (self.row.name,), self._document)

    async def one(self, request: Request, tenant: str, name: str) -> Response:
        """Answer with one of them."""
        return self._answer(await found(request, self.row, tenant, name))

    async def create(
        self, request: Request, tenant: str, caller: Caller, name: str, body: Body
    ) -> Response:
        """Make one that is not there yet."""
        async with self._locked(request, tenant, caller, name) as locked:
            if locked.row is not None:
                said = f"There is {_one(self.row)} {name!r} already; PUT replaces it."
                raise Refused(409, said, [("name", "it is taken")])
            row = await locked.put(name, await self.values(locked, name, body))
        return self._answer(row, 201, {"Location": f"{request.url.path}/{row.name}"})

    async def put(
        self,
        request: Request,
        tenant: str,
        caller: Caller,
        name: str,
        body: Body,
        matches: tuple[str | None, str | None],
    ) -> Response:
        """Make one, or replace it; `matches` are If-Match and If-None-Match."""
        _check_new(name)
        async with self._locked(request, tenant, caller, name) as locked:
            _check_match(locked.row, *matches)
            status = 201 if locked.row is None else 200
            row = await locked.put(name, await self.values(locked, name, body))
        return self._answer(row, status)

    async def delete(
        self, request: Request, tenant: str, caller: Caller, name: str, match: str | None
    ) -> Response:
        """Delete one that nothing needs."""
        if "\0" in name:
            raise missing(self.row, name)
        async with self._locked(request, tenant, caller, name) as locked:
            _check_match(locked.row, match)
            if locked.row is None:
                raise missing(self.row, name)
            if said := await self.users(locked, name):
                raise Refused(409, said)
            await locked.delete()
        return Response(status_code=204)

    @asynccontextmanager
    async def _locked(
        self, request: Request, tenant: str, caller: Caller, name: str
    ) -> AsyncIterator[Locked[Named]]:
        engine = state_of(request).engine
        with checked(tenant):
            async with actions.locked(engine, self.row, tenant, name, caller.name) as locked:
                yield locked

    def _answer(
        self, row: Named, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        given = {"ETag": _etag(row), **(headers or {})}
        return documents.answer(self._document(row), status, given)

    def _document(self, row: Any) -> dict[str, Any]:
        return {name: getattr(row, name) for name in self.shown.model_fields}


def missing(model: type[Any], name: str) -> Refused:
    """Return the refusal of what is not there, or another tenant's."""
    kind = _one(model).partition(" ")[2]
    return Refused(404, f"There is no {kind} {name[:63]!r} of this tenant.")


@contextmanager
def checked(tenant: str) -> Iterator[None]:
    """Refuse what cannot be run, and what is for a tenant that is not there.

    Raises:
        Refused: 404, there is no such tenant; 422, it cannot be run.
    """
    try:
        yield
    except NoResultFound:
        raise no_tenant(tenant) from None
    except Faulty as error:
        raise unfit(*error.faults) from None


async def found(request: Request, model: type[Named], tenant: str, name: str) -> Named:
    """Return an action or a step template.

    Raises:
        Refused: 404, there is no such one.
    """
    known = "\0" not in name
    there, row = (
        await actions.get(state_of(request).engine, model, tenant, name) if known else (True, None)
    )
    if not there:
        raise no_tenant(tenant)
    if row is None:
        raise missing(model, name)
    return row


def _etag(row: Any) -> str:
    """Return what changes whenever it is changed, or another of its name is made."""
    return f'"{str(row.id)[:8]}-{row.revision}"'


def _check_match(row: Any, match: str | None, none_match: str | None = None) -> None:
    """See that it is what the caller thinks it is.

    Raises:
        Refused: 412, it is not.
    """
    if none_match == "*" and row is not None:
        raise Refused(412, f"There is a {row.name} already; If-None-Match: * forbids that.")
    if match is None:
        return
    tags = [one.strip() for one in match.split(",")]
    if row is None or (match.strip() != "*" and _etag(row) not in tags):
        now = f"it has {_etag(row)} now" if row is not None else "it does not exist"
        raise Refused(412, f"It is not the one of If-Match; {now}. Read it again.")


def _check_new(name: str) -> None:
    """See that something can be made of a name.

    Raises:
        Refused: 422, it is none.
    """
    if not re.fullmatch(SLUG, name) or len(name) > 63:
        raise unfit(
            f"name: {name[:63]!r} does not fit; give lower-case letters, digits and single "
            "dashes, at most 63"
        )


def _one(model: type[Any]) -> str:
    return "an action" if model is Action else "a step template"
