"""What commands print: JSON for programs, tables for people."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A title may hold what a terminal obeys: it shows as a sign instead. Line ends stay.
_OBEYED = dict.fromkeys((*range(32), *range(127, 160)), "�")
del _OBEYED[ord("\n")]


def harmless(text: str) -> str:
    """Return text without what a terminal would take for a command."""
    return text.translate(_OBEYED)


def json(value: Any) -> None:
    """Print a value as JSON, instants in UTC with a Z."""
    print(jsonlib.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def line(text: str = "") -> None:
    """Print a line on standard output."""
    print(harmless(text))


def warn(text: str) -> None:
    """Print a line on standard error."""
    print(harmless(text), file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under their columns; where nobody sees them, none is shortened."""
    shown = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        shown.add_row(*(Text(harmless(_cell(cell))) for cell in row))
    console().print(shown)


def facts(pairs: Mapping[str, Any]) -> None:
    """Print names and values below one another; what has no value is left out."""
    given = {name: value for name, value in pairs.items() if value not in (None, "", {}, [])}
    width = max(map(len, given), default=0)
    for name, value in given.items():
        first, *rest = _cell(value).splitlines()
        line(f"{name:<{width}}  {first}")
        for one in rest:
            line(f"{'':<{width}}  {one}")


def console() -> Console:
    """Return where tables go; a pipe or a file has no width."""
    return Console(width=None if sys.stdout.isatty() else 10_000, highlight=False, soft_wrap=False)


def when(at: datetime | str | None, zone: str = "UTC") -> str:
    """Return an instant as people read it, to the second."""
    if at is None:
        return ""
    instant = datetime.fromisoformat(at) if isinstance(at, str) else at
    local = instant.astimezone(ZoneInfo(zone))
    return f"{local:%a %Y-%m-%d %H:%M:%S} {local.tzname()}"


def row(record: Any) -> dict[str, Any]:
    """Return a row of a table by its columns."""
    return {column.key: getattr(record, column.key) for column in record.__table__.columns}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, dict | list):
        return jsonlib.dumps(value, ensure_ascii=False, default=_plain)
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, UUID | Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
