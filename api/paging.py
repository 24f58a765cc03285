"""Lists, both ways: numbered pages with totals, and pages that go on from a row.

The second kind stays right while rows come and go: a page begins after the last row of the one
before, wherever that stands by now.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field

from api.problems import Refused

DEFAULT = 30
MOST = 200


class Page(BaseModel):
    """What a list says of itself, beside its `items`."""

    page: int | None = Field(description="The number of this page, from 1", examples=[1])
    page_size: int | None = Field(description="Items on a page", examples=[30])
    total: int | None = Field(description="Items on all pages", examples=[412])
    pages: int | None = Field(description="How many pages there are", examples=[14])
    limit: int | None = Field(
        description="Items on a page, where it goes on from a row", examples=[30]
    )
    next: str | None = Field(
        description="The address of the next page; null where there is none",
        examples=["/api/v1/tenants/acme/definitions?limit=30&after=WyJuaWdodGx5Il0"],
    )
    previous: str | None = Field(
        description="The address of the page before; null where there is none",
        examples=["/api/v1/tenants/acme/definitions?page=1&page_size=30"],
    )


@dataclass(frozen=True)
class Asked:
    """Which part of a list is asked for.

    Attributes:
        path: The address of the list, with its other parameters.
        number: The page's number; None where it goes on from a row.
        size: Items on it.
        after: The key of the row that it begins after.
        before: The key of the row that it ends before.
    """

    path: Callable[..., str]
    number: int | None
    size: int
    after: list[Any] | None = None
    before: list[Any] | None = None

    @property
    def offset(self) -> int:
        """How many items stand on the pages before."""
        return (self.number - 1) * self.size if self.number else 0


async def _asked(
    request: Request,
    page: Annotated[
        int | None, Query(ge=1, le=1_000_000, description="The page's number, from 1", examples=[1])
    ] = None,
    page_size: Annotated[
        int | None, Query(ge=1, le=MOST, description="Items on a page; else 30", examples=[30])
    ] = None,
    limit: Annotated[
        int | None,
        Query(ge=1, le=MOST, description="Items on a page that goes on from a row", examples=[30]),
    ] = None,
    after: Annotated[
        str | None,
        Query(
            max_length=2000,
            description="What `next` of the page before has here",
            examples=["WyJuaWdodGx5Il0"],
        ),
    ] = None,
    before: Annotated[
        str | None,
        Query(
            max_length=2000,
            description="What `previous` of the page after has here",
            examples=["WyJuaWdodGx5Il0"],
        ),
    ] = None,
) -> Asked:
    def path(**parameters: Any) -> str:
        own = ("page", "page_size", "limit", "after", "before")
        kept = request.url.remove_query_params(own).include_query_params(**parameters)
        return f"{kept.path}?{kept.query}"

    keyed = limit is not None or after is not None or before is not None
    if keyed and (page is not None or page_size is not None):
        raise Refused(
            422,
            "page and page_size go together, and so do limit, after and before; use one kind.",
            [("page", "it does not go with limit, after or before")],
        )
    if after is not None and before is not None:
        raise Refused(
            422, "after and before exclude each other.", [("before", "it does not go with after")]
        )
    if keyed:
        return Asked(path, None, limit or DEFAULT, _read("after", after), _read("before", before))
    return Asked(path, page or 1, page_size or DEFAULT)


Paging = Annotated[Asked, Depends(_asked)]


def _read(field: str, cursor: str | None) -> list[Any] | None:
    if cursor is None:
        return None
    try:
        key = orjson.loads(base64.urlsafe_b64decode(cursor.encode() + b"=="))
        if isinstance(key, list) and "\0" not in str(key):
            return key
    except ValueError:
        pass
    raise bad_cursor(field)


def bad_cursor(field: str) -> Refused:
    """Return the refusal of a cursor that is none of this list's."""
    return Refused(
        422,
        f"{field}: it is no position in this list; take it from `next` or `previous`.",
        [(field, "it is no position in this list; take it from `next` or `previous`")],
    )


def text_key(key: list[Any] | None, field: str) -> tuple[str] | None:
    """Return a cursor of one text, such as a name, as a position.

    Raises:
        Refused: 422, it is none.
    """
    if key is None:
        return None
    if len(key) != 1 or not isinstance(key[0], str) or "\0" in key[0]:
        raise bad_cursor(field)
    return (key[0],)


def cursor(key: Sequence[Any]) -> str:
    """Return a row's key as it stands in addresses."""
    return base64.urlsafe_b64encode(orjson.dumps(list(key))).rstrip(b"=").decode()


def numbered(asked: Asked, items: Sequence[Any], total: int) -> dict[str, Any]:
    """Return a numbered page."""
    assert asked.number is not None
    pages = -(-total // asked.size)

    def at(number: int) -> str | None:
        there = 1 <= number <= pages
        return asked.path(page=number, page_size=asked.size) if there else None

    return {
        "items": items,
        "page": asked.number,
        "page_size": asked.size,
        "total": total,
        "pages": pages,
        "limit": None,
        "next": at(asked.number + 1),
        "previous": at(asked.number - 1),
    }


def keyed(
    asked: Asked, rows: list[Any], key: Callable[[Any], Sequence[Any]], show: Callable[[Any], Any]
) -> dict[str, Any]:
    """Return a page that goes on from a row.

    Args:
        asked: Which.
        rows: In the list's order, or backwards where it ends before a row; one more than asked
            for, if there are as many.
        key: What tells where a row stands.
        show: Makes an item of a row.
    """
    more = len(rows) > asked.size
    rows = rows[: asked.size]
    if asked.before is not None:
        rows.reverse()
    before, after = (more, True) if asked.before is not None else (asked.after is not None, more)

    def at(where: str, there: bool, row: int) -> str | None:
        if not (there and rows):
            return None
        return asked.path(limit=asked.size, **{where: cursor(key(rows[row]))})

    return {
        "items": [show(row) for row in rows],
        "page": None,
        "page_size": None,
        "total": None,
        "pages": None,
        "limit": asked.size,
        "next": at("after", after, -1),
        "previous": at("before", before, 0),
    }
