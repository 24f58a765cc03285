"""Lists of records, whose rows are told apart by a few of their columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.responses import Response
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute

from api import documents
from api.access import no_tenant
from api.paging import Asked, bad_cursor, keyed, numbered
from api.state import state_of
from store import recording, tenants
from store.models import Instant
from store.recording import Part


async def answer(
    request: Request,
    tenant: str,
    paging: Asked,
    rows: Select[Any],
    key: Sequence[InstrumentedAttribute[Any]],
    show: Callable[[Any], Any],
    *,
    newest: bool = False,
) -> Response:
    """Answer with the part of a list that is asked for.

    Args:
        request: Who asks.
        tenant: Whose list it is.
        paging: Which part.
        rows: The whole list, of one model.
        key: The columns by which it is ordered, and which tell a row from all others.
        show: Makes an item of a row.
        newest: From the greatest key on; else from the least.

    Raises:
        Refused: 404, there is no such tenant; 422, there is no such position.
    """
    engine = state_of(request).engine
    if paging.number is None:
        part = Part(
            paging.size + 1,
            after=_position(paging.after, key, "after"),
            before=_position(paging.before, key, "before"),
        )
        found = await recording.listed(engine, rows, key, part, newest=newest)
        page = keyed(paging, found, lambda row: [_said(getattr(row, one.key)) for one in key], show)
    else:
        part = Part(paging.size, paging.offset)
        found = await recording.listed(engine, rows, key, part, newest=newest)
        total = await recording.counted(engine, rows)
        page = numbered(paging, [show(row) for row in found], total)
    if not found and await tenants.find(engine, tenant) is None:
        raise no_tenant(tenant)
    return documents.answer(page)


def _said(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value


def _position(
    said: list[Any] | None, key: Sequence[InstrumentedAttribute[Any]], field: str
) -> tuple[Any, ...] | None:
    if said is None:
        return None
    if len(said) != len(key):
        raise bad_cursor(field)
    try:
        return tuple(_value(one, column) for one, column in zip(said, key, strict=True))
    except (ValueError, TypeError, AttributeError):
        raise bad_cursor(field) from None


def _value(said: Any, column: InstrumentedAttribute[Any]) -> Any:
    kind: Any = datetime if isinstance(column.type, Instant) else column.type.python_type
    if kind is UUID:
        return UUID(said)
    if kind is datetime:
        found = datetime.fromisoformat(said)
        if found.utcoffset() is None or not 1900 <= found.year < 9000:
            raise ValueError(said)
        return found
    if type(said) is not kind or (kind is int and abs(said) >= 2**63):
        raise ValueError(said)
    return said
