"""`rota preview`: when a cron expression would be due."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from deployments.clock_changes import warnings
from deployments.schedule import Cron
from scripts import show
from scripts.session import Refused


def preview(
    expression: str, timezone: str, count: int, since: str | None, day_and: bool, json: bool
) -> int:
    """Print the next occurrences, in the zone and in UTC, and what clocks do in between."""
    start = instant("--since", since) if since else datetime.now(UTC)
    schedule = Cron(expression, timezone, day_and)
    dates = schedule.occurrences(start, count)
    said = warnings(schedule, start, dates[-1]) if dates else []
    if json:
        show.json({"cron": schedule.expression, **_data(dates, timezone), "warnings": said})
        return 0
    show.table((timezone, "UTC"), ((show.when(date, timezone), show.when(date)) for date in dates))
    for one in said:
        show.warn(one)
    return 0


def instant(option: str, text: str) -> datetime:
    """Return the instant that an option gives.

    Raises:
        Refused: It is none, or has no offset from UTC.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.utcoffset() is None:
        raise Refused(
            f"{option}: {text!r} is no date and time with an offset from UTC; write it as "
            "2026-03-01T08:00:00+01:00 or 2026-03-01T07:00:00Z."
        )
    return at


def _data(dates: list[datetime], timezone: str) -> dict[str, Any]:
    from zoneinfo import ZoneInfo

    zone = ZoneInfo(timezone)
    return {
        "timezone": timezone,
        "occurrences": [
            {"local": date.astimezone(zone).isoformat(), "utc": date} for date in dates
        ],
    }
