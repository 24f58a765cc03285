"""Where a zone's clocks change, and what that does to a cron schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from deployments.cron import read
from deployments.schedule import Cron

MOST = 100
"""A schedule that is due once a year meets a change at every turn; so many are said."""


@dataclass(frozen=True)
class ClockChange:
    """One change of a zone's clocks.

    Attributes:
        at: The instant, in UTC.
        before: What the clock shows at that instant by the old offset.
        after: What it shows by the new one.
    """

    at: datetime
    before: datetime
    after: datetime

    @property
    def forward(self) -> bool:
        """Whether times are skipped; else they come twice."""
        return self.after > self.before

    @property
    def window(self) -> tuple[datetime, datetime]:
        """The wall-clock times that are skipped or come twice, the end not among them."""
        return min(self.before, self.after), max(self.before, self.after)


def clock_changes(zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[ClockChange]:
    """Yield the changes later than `since` and up to `until`, both aware."""
    day = since.astimezone(UTC).replace(microsecond=0)
    while day < until:
        following = min(day + timedelta(days=1), until)
        if _offset(zone, day) != _offset(zone, following):
            at = _between(zone, day, following)
            naive = at.replace(tzinfo=None)
            before = naive + _offset(zone, at - timedelta(seconds=1))
            yield ClockChange(at, before, naive + _offset(zone, at))
        day = following


def warnings(schedule: Cron, since: datetime, until: datetime) -> list[str]:
    """Return a sentence for each change of clocks that meets a time which `schedule` names."""
    said: list[str] = []
    for change in clock_changes(ZoneInfo(schedule.timezone), since, until):
        if walls := _named(schedule, change):
            said.append(_sentence(schedule, change, walls))
        if len(said) == MOST:
            break
    return said


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()


def _between(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """Return the first second at which the offset is no longer that of `low`."""
    old = _offset(zone, low)
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) / 2).replace(microsecond=0)
        low, high = (middle, high) if _offset(zone, middle) == old else (low, middle)
    return high


def _named(schedule: Cron, change: ClockChange) -> list[datetime]:
    begins, ends = change.window
    times = read(schedule.expression, schedule.day_and)
    found: list[datetime] = []
    for wall in times.walls(begins, 1):
        if wall >= ends:
            break
        found.append(wall)
    return found


def _sentence(schedule: Cron, change: ClockChange, walls: list[datetime]) -> str:
    begins, ends = change.window
    if len(walls) == 1:
        which, do, they = f"{walls[0]:%H:%M}", "does", "it"
    else:
        which = f"{len(walls)} times from {walls[0]:%H:%M} to {walls[-1]:%H:%M}"
        do, they = "do", "they"
    where = f"{schedule.timezone}: on {walls[0]:%Y-%m-%d} {which}"
    if change.forward:
        minutes = int((ends - begins).total_seconds() // 60)
        are, them = ("is", "it") if they == "it" else ("are", "them")
        return (
            f"{where} {do} not exist (clocks go forward); {they} {are} due {minutes} minutes "
            f"later, and Prefect 3.8 may start {them} as much too early"
        )
    come, run = ("comes", "runs") if they == "it" else ("come", "run")
    return f"{where} {come} twice (clocks go back); {they} {run} the first time only"
