"""Actions and step templates: what holds for both, which people name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import Header, Path, Query, Request
from sqlalchemy.exc import NoResultFound

from api.access import no_tenant
from api.problems import Refused, unfit
from api.state import state_of
from deployments.actions import Faulty
from deployments.entry import SLUG
from store import actions
from store.actions import Named
from store.steps import Action

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


def kind_of(model: type[Any]) -> str:
    """Return how people call what a model is."""
    return "action" if model is Action else "step template"


def missing(model: type[Any], name: str) -> Refused:
    """Return the refusal of what is not there, or another tenant's."""
    return Refused(404, f"There is no {kind_of(model)} {name[:63]!r} of this tenant.")


def etag(row: Any) -> str:
    """Return what changes whenever it is changed, or another of its name is made."""
    return f'"{str(row.id)[:8]}-{row.revision}"'


def check_match(row: Any, match: str | None, none_match: str | None = None) -> None:
    """See that it is what the caller thinks it is.

    Raises:
        Refused: 412, it is not.
    """
    if none_match == "*" and row is not None:
        raise Refused(412, f"There is a {row.name} already; If-None-Match: * forbids that.")
    if match is None:
        return
    tags = [one.strip() for one in match.split(",")]
    if row is None or (match.strip() != "*" and etag(row) not in tags):
        now = f"it has {etag(row)} now" if row is not None else "it does not exist"
        raise Refused(412, f"It is not the one of If-Match; {now}. Read it again.")


def check_new(name: str) -> None:
    """See that something can be made of a name.

    Raises:
        Refused: 422, it is none.
    """
    if not re.fullmatch(SLUG, name) or len(name) > 63:
        raise unfit(
            f"name: {name[:63]!r} does not fit; give lower-case letters, digits and single "
            "dashes, at most 63"
        )


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


def sought(q: str | None) -> str | None:
    """Return a part of a name as the database takes it."""
    return q and q.replace("\0", "\N{REPLACEMENT CHARACTER}")
