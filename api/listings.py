"""When a list was asked for, so that one that comes late undoes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from pydantic import Field

from api import fleet
from api.problems import Refused
from store.listings import LaterList


def listed_at() -> Any:
    """Return the field of a body that says when its list was asked for."""
    return Field(
        None,
        description=(
            "When the list was asked for, by all its batches the same; a 409 if one that was asked "
            "for later has been written. null: it is written in any case"
        ),
        examples=["2026-03-01T08:00:00Z"],
    )


def check(at: datetime | None) -> datetime | None:
    """Return when a list was asked for; now, if that is a little ahead.

    Raises:
        Refused: 422, it is more than an hour ahead.
    """
    return None if at is None else fleet.check_clock(at, "listed_at")


@contextmanager
def in_order(source: str) -> Iterator[None]:
    """Refuse a list of `source` if a later one has been written.

    Raises:
        Refused: 409, with the field `listed_at`.
    """
    try:
        yield
    except LaterList as later:
        said = (
            f"a list of {source} of {later.newest.isoformat()} has been written, and this one is "
            f"of {later.listed_at.isoformat()}: nothing was written of it. If no other was sent "
            "meanwhile, look at the clocks of those who send them"
        )
        raise Refused(409, f"{said}.", [("listed_at", said)]) from None
