"""When something is due: of a definition, and of a schedule that is not saved yet."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from cron_descriptor import FormatError, MissingFieldError, Options, get_description
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api import documents
from api.access import Anybody, Reader, TenantSlug
from api.definitions import Name, find
from api.problems import declared
from api.state import state_of
from deployments.clock_changes import warnings
from deployments.cron import MACROS
from deployments.desired import build_for, next_run
from deployments.entry import Instant, Strict, Text
from deployments.schedule import Cron, Interval, InvalidSchedule, Once, Schedule, build

router = APIRouter(tags=["previews"])

MOST = 100

WARNED = timedelta(days=3653)
"""For how long clocks are followed; a hundred dates may reach over thousands of years."""


class Occurrence(BaseModel):
    """One instant at which something is due."""

    local: datetime = Field(
        description="In the schedule's time zone", examples=["2026-03-01T08:00:00+01:00"]
    )
    utc: datetime = Field(description="In UTC", examples=[documents.INSTANT])


class Preview(BaseModel):
    """When something is due."""

    words: str | None = Field(
        description="The schedule in words; null on demand only", examples=["At 03:00"]
    )
    timezone: str = Field(description="The zone of `local`", examples=["Europe/Berlin"])
    occurrences: list[Occurrence] = Field(description="The next dates, the earliest first")
    warnings: list[str] = Field(
        description="What may surprise: dates that never come, clocks that change, days joined by "
        "OR",
        examples=[["It is due on each of these days: ..."]],
    )


class ScheduleBody(Strict):
    """A schedule: one of cron, interval_seconds, run_at and after_seconds."""

    cron: Text | None = Field(
        None, max_length=255, description="A cron expression", examples=["0 3 * * *"]
    )
    interval_seconds: int | None = Field(
        None, description="A whole number of seconds from 60 on", examples=[3600]
    )
    anchor_at: Instant | None = Field(
        None, description="From when on intervals count", examples=[documents.INSTANT]
    )
    run_at: Instant | None = Field(
        None, description="The one instant", examples=[documents.INSTANT]
    )
    after_seconds: int | None = Field(
        None,
        description="A whole number of seconds from 1 on, counted from `since`",
        examples=[3600],
    )
    timezone: Text = Field(
        "UTC", max_length=255, description="The name of a time zone", examples=["Europe/Berlin"]
    )
    day_and: bool = Field(False, description="Whether both day fields must match", examples=[False])
    since: Instant | None = Field(
        None, description="From when on; null: now", examples=[documents.INSTANT]
    )
    count: int = Field(5, ge=1, le=MOST, description="How many dates", examples=[5])


@router.get(
    "/tenants/{tenant}/definitions/{name}/preview",
    response_model=Preview,
    responses=declared(404),
)
async def preview_definition(
    request: Request,
    tenant: TenantSlug,
    caller: Reader,
    name: Name,
    count: Annotated[int, Query(ge=1, le=MOST, description="How many dates", examples=[5])] = 5,
) -> Response:
    """Tell when a definition will be due, as it stands: paused or suspended, it never is."""
    row, owner = await find(state_of(request), tenant, name)
    suspended = {owner.slug} if owner.suspended else set()
    at = datetime.now(UTC)
    try:
        schedule = build_for(row)
    except InvalidSchedule as invalid:
        return documents.answer(_preview(None, row.timezone, [], [str(invalid)]))
    dates: list[datetime] = []
    while len(dates) < count:
        following = next_run(row, schedule, suspended, dates[-1] if dates else at)
        if following is None:
            break
        dates.append(following)
    return documents.answer(_preview(schedule, row.timezone, dates, _warnings(schedule, at, dates)))


@router.post("/preview", response_model=Preview, responses=declared())
async def preview_schedule(request: Request, caller: Anybody, body: ScheduleBody) -> Response:
    """Tell when a schedule would be due that is not saved yet."""
    since = body.since or datetime.now(UTC)
    try:
        schedule = build(
            cron=body.cron,
            interval_seconds=body.interval_seconds,
            anchor_at=body.anchor_at,
            run_at=body.run_at,
            after_seconds=body.after_seconds,
            after_at=since,
            timezone=body.timezone,
            day_and=body.day_and,
            created_at=since,
        )
    except InvalidSchedule as invalid:
        if "never comes" not in invalid.problem:
            raise
        return documents.answer(_preview(None, body.timezone, [], [f"It never comes: {invalid}."]))
    dates = schedule.occurrences(since, body.count) if schedule else []
    said = _warnings(schedule, since, dates)
    if schedule is not None and not dates:
        said.append("It never comes: the date has passed.")
    return documents.answer(_preview(schedule, body.timezone, dates, said))


def _preview(
    schedule: Schedule | None, timezone: str, dates: Iterable[datetime], said: list[str]
) -> dict[str, Any]:
    zone = ZoneInfo(timezone) if schedule is not None else UTC
    return {
        "words": words(schedule) if schedule is not None else None,
        "timezone": timezone,
        "occurrences": [
            {"local": at.astimezone(zone).isoformat(), "utc": at.astimezone(UTC)} for at in dates
        ],
        "warnings": said,
    }


def words(schedule: Schedule) -> str:
    """Return a schedule in English."""
    if isinstance(schedule, Interval):
        return f"Every {schedule.seconds} seconds"
    if isinstance(schedule, Once):
        return "Once"
    options = Options()
    options.use_24hour_time_format = True
    expression = MACROS.get(schedule.expression, schedule.expression)
    try:
        said = str(get_description(expression, options))
    except (FormatError, MissingFieldError, ValueError, IndexError):
        return schedule.expression
    return said.replace(", or on ", ", if that is a ") if schedule.day_and else said


def _warnings(schedule: Schedule | None, since: datetime, dates: list[datetime]) -> list[str]:
    if not isinstance(schedule, Cron):
        return []
    said = warnings(schedule, since, min(dates[-1], since + WARNED)) if dates else []
    fields = MACROS.get(schedule.expression, schedule.expression).split()
    if fields[2] != "*" and fields[4] != "*" and not schedule.day_and:
        said.append(
            f"It is due on day {fields[2]} of the month and on weekday {fields[4]}, whichever "
            "comes: cron joins the two by OR. Set day_and to have it due only where both match."
        )
    return said
