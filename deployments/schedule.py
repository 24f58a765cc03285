"""When a definition is due: by cron, at an interval, once, or only on demand.

Once is at an instant, or so long after another one.

`build` turns the schedule columns of a row into a `Cron`, an `Interval`, a `Once` or None, and
refuses with `InvalidSchedule` what Prefect would refuse, never run, or run at other times than
written. All instants are aware and in UTC, and none of this reads the clock.

Cron follows the wall clock of its time zone, as Prefect 3.9 does:

* a time that does not exist because clocks go forward is moved forward by the gap (02:30 runs at
  03:30), and falls together with an occurrence that is there already;
* a time that comes twice because clocks go back is due the first time only;
* day of month and day of week are joined by OR where both are given, by AND with `day_and`.

Prefect 3.8 on Python before 3.13 moves a skipped time back instead (to 01:30), and near a change
of clocks its answers depend on the moment of asking. Those windows, an hour or so twice a year,
are the only times at which it differs from this module; `tests/unit/test_schedule_parity.py`
names them and proves the rest.

The text of an expression is read in `deployments.cron`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from deployments import zones
from deployments.cron import HORIZON, LONGEST_CRON, MACROS, Malformed, Times, read, single_spaced

__all__ = [
    "HORIZON",
    "LONGEST_CRON",
    "LONGEST_INTERVAL",
    "MACROS",
    "SHORTEST_INTERVAL",
    "Cron",
    "Interval",
    "InvalidSchedule",
    "Once",
    "Schedule",
    "build",
    "canonical",
    "whole_second_from",
]

SHORTEST_INTERVAL = 60  # seconds
LONGEST_INTERVAL = 10 * 365 * 86_400  # seconds; ten years


class InvalidSchedule(ValueError):
    """A schedule column holds what cannot be scheduled.

    Attributes:
        field: The column: `cron`, `interval_seconds`, `run_at`, `after_seconds`, `timezone` or
            `anchor_at`.
        value: What the column holds.
        problem: What is wrong with it, to be read after the value.
        remedy: What to do about it.
    """

    def __init__(self, field: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(field, value, problem, remedy)
        self.field = field
        self.value = value
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        shown = self.value.isoformat() if isinstance(self.value, datetime) else repr(self.value)
        if len(shown) > 80:
            shown = f"{shown[:40]}...{shown[-1]}"
        return f"{self.field}: {shown} {self.problem}; {self.remedy}"


class _Occurring(ABC):
    """What every schedule can answer."""

    __slots__ = ()

    @abstractmethod
    def next_after(self, at: datetime) -> datetime | None:
        """Return the first occurrence strictly later than `at`, in UTC."""

    @abstractmethod
    def previous_until(self, at: datetime) -> datetime | None:
        """Return the last occurrence strictly before `at`, in UTC."""

    @abstractmethod
    def to_prefect(self) -> dict[str, Any]:
        """Return the schedule as Prefect's API takes it, and gives it back unchanged."""

    def occurrences(self, since: datetime, count: int) -> list[datetime]:
        """Return the first `count` occurrences strictly later than `since`, or all that remain."""
        found: list[datetime] = []
        while len(found) < count:
            following = self.next_after(found[-1] if found else since)
            if following is None:
                break
            found.append(following)
        return found


@dataclass(frozen=True, slots=True)
class Cron(_Occurring):
    """Due whenever the wall clock of a time zone matches five cron fields.

    Attributes:
        expression: Five fields or one of `MACROS`, single-spaced.
        timezone: IANA name of the zone whose wall clock counts.
        day_and: Day of month and day of week must both match; by default either is enough.

    Raises:
        InvalidSchedule: The expression or the time zone is not one that Prefect can follow.
    """

    expression: str
    timezone: str = "UTC"
    day_and: bool = False
    _times: Times = field(init=False, repr=False, compare=False)
    _zone: ZoneInfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        expression = self.expression
        try:
            expression = single_spaced(expression)
            times = read(expression, bool(self.day_and))
        except Malformed as bad:
            raise InvalidSchedule("cron", expression, bad.problem, bad.remedy) from None
        object.__setattr__(self, "expression", expression)
        object.__setattr__(self, "_times", times)
        object.__setattr__(self, "_zone", _zone(self.timezone))

    def next_after(self, at: datetime) -> datetime | None:
        """Return the first occurrence strictly later than `at`, in UTC.

        None if there is none within `HORIZON` years, which happens only near the year 9999.
        """
        at = _utc(at)
        found: datetime | None = None
        for wall in self._times.walls(min(self._walls_around(at)), 1):
            instant = self._instant(wall)
            if instant <= at:
                continue
            if found is None or instant < found:
                found = instant
            # A skipped time is moved past later ones, so look on until a time that exists.
            if instant.astimezone(self._zone).replace(tzinfo=None) == wall:
                break
        return found

    def previous_until(self, at: datetime) -> datetime | None:
        """Return the last occurrence strictly before `at`, in UTC.

        None if there is none within `HORIZON` years, which happens only near the year 1.
        """
        at = _utc(at)
        walls = self._times.walls(max(self._walls_around(at)), -1)
        found = next((then for then in map(self._instant, walls) if then < at), None)
        if found is None:
            return None
        # A skipped time is moved past later ones, so what was found may not be the last.
        while (later := self.next_after(found)) is not None and later < at:
            found = later
        return found

    def to_prefect(self) -> dict[str, Any]:
        """Return the schedule as Prefect's API takes it, and gives it back unchanged."""
        return {
            "cron": self.expression,
            "timezone": self.timezone,
            "day_or": not self.day_and,
        }

    def _walls_around(self, at: datetime) -> tuple[datetime, datetime]:
        """Return what the clock shows at `at`, by its offset then and by that of a day before.

        They differ after a change of clocks, when times from before it may still be due: those
        that it skipped, moved by up to a day (Samoa skipped a whole one in 2011).
        """
        now = at.astimezone(self._zone).replace(tzinfo=None, fold=0)
        before = (at - timedelta(days=1)).astimezone(self._zone).replace(tzinfo=None, fold=0)
        return now, before + timedelta(days=1)

    def _instant(self, wall: datetime) -> datetime:
        """Return when the clock shows `wall`: the first time, and moved forward if it never does.

        With `fold` 0, a skipped time is reckoned by the offset before the gap.
        """
        return wall.replace(tzinfo=self._zone).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Interval(_Occurring):
    """Due every so many elapsed seconds, counted from an anchor; time zones have no part in it.

    The anchor sets the phase. It is an occurrence itself, and Prefect runs at the same distances
    before it too, so `next_after` does as well, while `previous_until` knows none before it.

    Attributes:
        seconds: From `SHORTEST_INTERVAL` to `LONGEST_INTERVAL`.
        anchor: In UTC, whole seconds.

    Raises:
        InvalidSchedule: `seconds` is out of range or no whole number, or the anchor is naive.
    """

    seconds: int
    anchor: datetime

    def __post_init__(self) -> None:
        _check_seconds("interval_seconds", self.seconds, SHORTEST_INTERVAL)
        object.__setattr__(self, "anchor", _whole_second("anchor_at", self.anchor))

    def next_after(self, at: datetime) -> datetime | None:
        """Return the first occurrence strictly later than `at`, in UTC; None past year 9999."""
        step = timedelta(seconds=self.seconds)
        try:
            return self.anchor + ((_utc(at) - self.anchor) // step + 1) * step
        except OverflowError:
            return None

    def previous_until(self, at: datetime) -> datetime | None:
        """Return the last occurrence strictly before `at`, in UTC; None up to the anchor."""
        at = _utc(at)
        if at <= self.anchor:
            return None
        step = timedelta(seconds=self.seconds)
        return self.anchor + (at - self.anchor - timedelta.resolution) // step * step

    def to_prefect(self) -> dict[str, Any]:
        """Return the schedule as Prefect's API takes it, and gives it back unchanged."""
        return {
            "interval": float(self.seconds),
            "anchor_date": _iso(self.anchor),
            "timezone": "UTC",
        }


@dataclass(frozen=True, slots=True)
class Once(_Occurring):
    """Due at one instant and never again.

    Attributes:
        at: In UTC, whole seconds.

    Raises:
        InvalidSchedule: `at` is naive.
    """

    at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", _whole_second("run_at", self.at))

    def next_after(self, at: datetime) -> datetime | None:
        """Return the occurrence if it is strictly later than `at`, in UTC."""
        return self.at if self.at > _utc(at) else None

    def previous_until(self, at: datetime) -> datetime | None:
        """Return the occurrence if it is strictly before `at`, in UTC."""
        return self.at if self.at < _utc(at) else None

    def to_prefect(self) -> dict[str, Any]:
        """Return the schedule as Prefect's API takes it, and gives it back unchanged."""
        start = re.sub("[-:]|Z$", "", _iso(self.at))
        return {
            "rrule": f"DTSTART:{start}\nRRULE:FREQ=DAILY;COUNT=1",
            "timezone": "UTC",
        }


Schedule = Cron | Interval | Once


def build(
    *,
    cron: str | None = None,
    interval_seconds: int | None = None,
    anchor_at: datetime | None = None,
    run_at: datetime | None = None,
    after_seconds: int | None = None,
    after_at: datetime | None = None,
    timezone: str = "UTC",
    day_and: bool = False,
    created_at: datetime,
) -> Schedule | None:
    """Build the schedule that the columns of a row ask for, or None for one that runs on demand.

    Args:
        cron: Five cron fields or one of `MACROS`.
        interval_seconds: Elapsed seconds from one occurrence to the next.
        anchor_at: An instant to count intervals from; without it they count from `created_at`.
        run_at: The one instant to run at.
        after_seconds: Elapsed seconds from `after_at` to the one instant to run at.
        after_at: What `after_seconds` counts from; None if nothing is due at present.
        timezone: IANA name of the zone whose wall clock `cron` follows; the others ignore it.
        day_and: Day of month and day of week of `cron` must both match.
        created_at: When the row was made, aware.

    Raises:
        InvalidSchedule: A column holds what cannot be scheduled, or two contradict each other.
    """
    _check_columns(cron, interval_seconds, anchor_at, run_at, after_seconds)
    _zone(timezone)
    if cron is not None:
        return Cron(cron, timezone, day_and)
    if interval_seconds is not None:
        return Interval(interval_seconds, created_at if anchor_at is None else anchor_at)
    if run_at is not None:
        return Once(run_at)
    if after_seconds is not None:
        _check_seconds("after_seconds", after_seconds, 1)
        if after_at is not None:
            return Once(whole_second_from(after_at) + timedelta(seconds=after_seconds))
    return None


def whole_second_from(at: datetime) -> datetime:
    """Return the first whole second at `at` or after it."""
    return at.replace(microsecond=0) + timedelta(seconds=1 if at.microsecond else 0)


def canonical(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schedule that Prefect's API gave, in the form that `to_prefect` returns.

    The same schedule can come as a number or an ISO 8601 duration, with its anchor in this or that
    spelling, and with or without what is only a default. What is no schedule that Rota makes
    stays as it is, so that a comparison sees it.
    """
    zone = schedule.get("timezone") or "UTC"
    if "cron" in schedule:
        return {
            "cron": " ".join(str(schedule["cron"]).split()),
            "timezone": zone,
            "day_or": schedule.get("day_or") is not False,
        }
    if "interval" in schedule:
        return {
            "interval": _seconds(schedule["interval"]),
            "anchor_date": _iso(schedule.get("anchor_date")),
            "timezone": zone,
        }
    if "rrule" in schedule:
        return {"rrule": schedule["rrule"], "timezone": zone}
    return dict(schedule)


# Columns


def _check_columns(
    cron: object, interval: object, anchor: object, run_at: object, after: object
) -> None:
    columns = {
        "cron": cron,
        "interval_seconds": interval,
        "run_at": run_at,
        "after_seconds": after,
    }
    given = [name for name, value in columns.items() if value is not None]
    if len(given) > 1:
        others = " and ".join(given[1:])
        remedy = "keep the one that is meant and clear the rest"
        raise InvalidSchedule(given[0], columns[given[0]], f"stands beside {others}", remedy)
    if anchor is not None and interval is None:
        remedy = "set interval_seconds, or clear anchor_at"
        raise InvalidSchedule("anchor_at", anchor, "has no interval to anchor", remedy)


def _check_seconds(column: str, seconds: object, least: int) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        problem, remedy = "is not a whole number", "give whole seconds"
    elif seconds < least:
        problem = "is too short"
        remedy = f"give at least {least} second{'' if least == 1 else 's'}"
    elif seconds > LONGEST_INTERVAL:
        problem, remedy = "is too long", f"give at most {LONGEST_INTERVAL} seconds, ten years"
    else:
        return
    raise InvalidSchedule(column, seconds, problem, remedy)


def _whole_second(column: str, at: object) -> datetime:
    """Return `at` in UTC, floored to the second."""
    if not isinstance(at, datetime):
        remedy = "give a date and a time with their UTC offset"
        raise InvalidSchedule(column, at, "is not an instant", remedy)
    if at.utcoffset() is None:
        remedy = "add the UTC offset, such as +00:00"
        raise InvalidSchedule(column, at, "has no time zone", remedy)
    return at.astimezone(UTC).replace(microsecond=0)


def _utc(at: datetime) -> datetime:
    if at.utcoffset() is None:
        raise ValueError(f"{at.isoformat()} has no time zone")
    return at.astimezone(UTC)


def _zone(name: object) -> ZoneInfo:
    if isinstance(name, str) and zones.known(name):
        return ZoneInfo(name)
    likely = zones.likely(name) if isinstance(name, str) else None
    remedy = f"did you mean {likely!r}?" if likely else "use an IANA name such as 'Europe/Berlin'"
    raise InvalidSchedule("timezone", name, "is not a known time zone", remedy)


# Prefect's spellings

_DURATION = re.compile(
    r"P(?:(?P<weeks>[\d.]+)W)?(?:(?P<days>[\d.]+)D)?"
    r"(?:T(?:(?P<hours>[\d.]+)H)?(?:(?P<minutes>[\d.]+)M)?(?:(?P<seconds>[\d.]+)S)?)?"
)


def _seconds(interval: Any) -> Any:
    """Return an interval as a float of seconds, or as it is if it cannot be read."""
    if isinstance(interval, timedelta):
        return interval.total_seconds()
    if isinstance(interval, str) and (match := _DURATION.fullmatch(interval)):
        parts = {unit: float(number) for unit, number in match.groupdict().items() if number}
        return timedelta(**parts).total_seconds()
    try:
        return float(interval)
    except (TypeError, ValueError):
        return interval


def _iso(at: Any) -> Any:
    """Return an instant as Prefect writes it, in UTC with a Z, or as it is if it cannot be read."""
    try:
        instant = at if isinstance(at, datetime) else datetime.fromisoformat(at)
    except (TypeError, ValueError):
        return at
    if instant.utcoffset() is None:
        instant = instant.replace(tzinfo=UTC)
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
