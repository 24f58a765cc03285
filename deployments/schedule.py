"""When a definition is due: by cron, at an interval, once, or only on demand.

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

Prefect carries its own old copy of croniter, which no later croniter agrees with, so this module
reads cron expressions itself and accepts only what that copy gets right. What it gets wrong is
refused: see `_read_item`, `_read_days` and `_passes_over_days`.
"""

import difflib
import operator
import re
from abc import ABC, abstractmethod
from calendar import monthrange
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Literal
from zoneinfo import ZoneInfo, available_timezones

LONGEST_CRON = 255
SHORTEST_INTERVAL = 60  # seconds
LONGEST_INTERVAL = 10 * 365 * 86_400  # seconds; ten years
HORIZON = 50  # years; as far as Prefect's croniter looks for the next date

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class InvalidSchedule(ValueError):
    """A schedule column holds what cannot be scheduled.

    Attributes:
        field: The column: `cron`, `interval_seconds`, `run_at`, `timezone` or `anchor_at`.
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
    _times: "_Times" = field(init=False, repr=False, compare=False)
    _zone: ZoneInfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        expression = _single_spaced(self.expression)
        object.__setattr__(self, "expression", expression)
        object.__setattr__(self, "_times", _read(expression, bool(self.day_and)))
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
        _check_interval(self.seconds)
        object.__setattr__(self, "anchor", _whole_second("anchor_at", self.anchor))

    def next_after(self, at: datetime) -> datetime | None:
        """Return the first occurrence strictly later than `at`, in UTC."""
        step = timedelta(seconds=self.seconds)
        return self.anchor + ((_utc(at) - self.anchor) // step + 1) * step

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
        timezone: IANA name of the zone whose wall clock `cron` follows; the others ignore it.
        day_and: Day of month and day of week of `cron` must both match.
        created_at: When the row was made, aware.

    Raises:
        InvalidSchedule: A column holds what cannot be scheduled, or two contradict each other.
    """
    _check_columns(cron, interval_seconds, anchor_at, run_at)
    _zone(timezone)
    if cron is not None:
        return Cron(cron, timezone, day_and)
    if interval_seconds is not None:
        return Interval(interval_seconds, created_at if anchor_at is None else anchor_at)
    if run_at is not None:
        return Once(run_at)
    return None


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


def _check_columns(cron: object, interval: object, anchor: object, run_at: object) -> None:
    columns = {"cron": cron, "interval_seconds": interval, "run_at": run_at}
    given = [name for name, value in columns.items() if value is not None]
    if len(given) > 1:
        others = " and ".join(given[1:])
        remedy = "keep the one that is meant and clear the rest"
        raise InvalidSchedule(given[0], columns[given[0]], f"stands beside {others}", remedy)
    if anchor is not None and interval is None:
        remedy = "set interval_seconds, or clear anchor_at"
        raise InvalidSchedule("anchor_at", anchor, "has no interval to anchor", remedy)


def _check_interval(seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        problem, remedy = "is not a whole number", "give whole seconds"
    elif seconds < SHORTEST_INTERVAL:
        problem, remedy = "is too short", f"give at least {SHORTEST_INTERVAL} seconds"
    elif seconds > LONGEST_INTERVAL:
        problem, remedy = "is too long", f"give at most {LONGEST_INTERVAL} seconds, ten years"
    else:
        return
    raise InvalidSchedule("interval_seconds", seconds, problem, remedy)


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


# Time zones


@cache
def _known_zones() -> Mapping[str, str]:
    """Map every zone that Prefect can follow from its name in lower case.

    Listing them walks the whole time zone database, about 20 ms, hence the cache. Prefect's
    validation lets `Factory` and `localtime` through, but its scheduler does not know them.
    """
    return {name.lower(): name for name in available_timezones() - {"Factory", "localtime"}}


def _zone(name: object) -> ZoneInfo:
    if isinstance(name, str) and _known_zones().get(name.lower()) == name:
        return ZoneInfo(name)
    likely = _likely_zone(name) if isinstance(name, str) else None
    remedy = f"did you mean {likely!r}?" if likely else "use an IANA name such as 'Europe/Berlin'"
    raise InvalidSchedule("timezone", name, "is not a known time zone", remedy)


def _likely_zone(name: str) -> str | None:
    """Return the zone whose name or city is most like `name`, None if there is none."""
    if any(char.isdigit() for char in name):  # an offset, and "Etc/GMT+1" means UTC-01:00
        return None
    zones = _known_zones()
    cities = {zone.rpartition("/")[2]: name for zone, name in sorted(zones.items())}
    wanted = name.strip().lower().replace(" ", "_")[:64]
    for known in (zones, cities):
        if close := difflib.get_close_matches(wanted, known, n=1, cutoff=0.8):
            return known[close[0]]
    return None


# Cron expressions


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five fields: what it is called and what it may hold."""

    name: str
    plural: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    first_name: int = 0

    @property
    def bounds(self) -> str:
        """The remedy for a value out of range."""
        numbers = (
            "0 to 7 (0 and 7 are Sunday)" if self is _WEEKDAY else f"{self.low} to {self.high}"
        )
        names = f", or from {self.names[0]} to {self.names[-1]}" if self.names else ""
        return f"{self.plural} go from {numbers}{names}"


_MINUTE = _Field("minute", "minutes", 0, 59)
_HOUR = _Field("hour", "hours", 0, 23)
_DAY = _Field("day of month", "days of the month", 1, 31)
_MONTH = _Field(
    "month",
    "months",
    1,
    12,
    ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    1,
)
_WEEKDAY = _Field(
    "day of week", "days of the week", 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
)

_ITEM = re.compile(
    r"(?:\*|(?P<low>[0-9]+|[a-z]+)(?:-(?P<high>[0-9]+|[a-z]+))?)(?:/(?P<step>[0-9]+))?"
)
_NTH = re.compile(r"(?P<days>[0-9]+|[a-z]+(?:-[a-z]+)?)#(?P<nth>[0-9]+)|l(?P<last>[0-9]+)")
_HASHED = re.compile(r"[hr](?:[(/,].*)?")

_EVERY, _LAST = 0, -1  # which of a month's Mondays; the others are counted from 1
_LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class _Malformed(Exception):
    """A cron field cannot be read; `_read` adds the expression."""


@dataclass(frozen=True, slots=True)
class _Times:
    """The wall-clock minutes that a cron expression names.

    Attributes:
        minutes: Ascending, as are `hours` and `months`.
        days: Days of the month; None where they do not matter.
        last_day: The last day of the month counts as one of `days`.
        weekdays: Pairs of a weekday (0 is Sunday) and which one of the month; None where they do
            not matter.
        day_and: A day must be in both `days` and `weekdays`.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: tuple[int, ...]
    days: frozenset[int] | None
    last_day: bool
    weekdays: frozenset[tuple[int, int]] | None
    day_and: bool

    def walls(self, start: datetime, step: Literal[1, -1]) -> Iterator[datetime]:
        """Yield every matching minute from `start` on, ascending, or descending by a step of -1."""
        first = (start.year, start.month, start.day)
        passed = operator.lt if step > 0 else operator.gt
        for year in range(start.year, start.year + step * (HORIZON + 1), step):
            if not MINYEAR < year < MAXYEAR:  # where no time zone can push it over the edge
                return
            for month in self.months[::step]:
                if passed((year, month), first[:2]):
                    continue
                for day in self.days_in(year, month)[::step]:
                    if passed((year, month, day), first):
                        continue
                    on_first = (year, month, day) == first
                    for hour in self.hours[::step]:
                        if on_first and passed(hour, start.hour):
                            continue
                        for minute in self.minutes[::step]:
                            wall = datetime(year, month, day, hour, minute)  # noqa: DTZ001
                            if not passed(wall, start):
                                yield wall

    def days_in(self, year: int, month: int) -> Sequence[int]:
        """Return the matching days of one month, ascending."""
        monday_based, length = monthrange(year, month)
        if self.days is None and self.weekdays is None:
            return range(1, length + 1)
        by_date = {day for day in self.days or () if day <= length}
        if self.last_day:
            by_date.add(length)
        if self.weekdays is None:
            return sorted(by_date)
        by_weekday: set[int] = set()
        for weekday, nth in self.weekdays:
            days = range((weekday - monday_based - 1) % 7 + 1, length + 1, 7)
            if nth == _EVERY:
                by_weekday.update(days)
            else:
                by_weekday.update(days[-1:] if nth == _LAST else days[nth - 1 : nth])
        if self.days is None:
            return sorted(by_weekday)
        return sorted(by_date & by_weekday if self.day_and else by_date | by_weekday)


def _single_spaced(expression: object) -> str:
    """Return a cron expression with single spaces; refuse what is no expression at all."""
    if not isinstance(expression, str):
        raise InvalidSchedule("cron", expression, "is not text", "write five fields")
    text = " ".join(expression.split())
    if not text:
        remedy = "write five fields, or clear it to run on demand only"
        raise InvalidSchedule("cron", expression, "is empty", remedy)
    if len(text) > LONGEST_CRON:
        problem = f"is {len(text)} characters long"
        remedy = f"shorten it to {LONGEST_CRON}, with ranges and steps instead of lists"
        raise InvalidSchedule("cron", expression, problem, remedy)
    if not text.isascii():
        strange = next(char for char in text if not char.isascii())
        remedy = "write it with plain digits, letters and signs"
        raise InvalidSchedule("cron", expression, f"contains {strange!r}", remedy)
    return text


@lru_cache(maxsize=4096)
def _read(expression: str, day_and: bool) -> _Times:
    """Read a single-spaced expression.

    Raises:
        InvalidSchedule: It is malformed, names a date that never comes, or would not run in
            Prefect at the times that it names.
    """
    try:
        times = _read_fields(_five_fields(expression), day_and)
        _check_that_it_comes(times)
    except _Malformed as malformed:
        problem, remedy = malformed.args
        raise InvalidSchedule("cron", expression, problem, remedy) from None
    return times


def _five_fields(expression: str) -> list[str]:
    text = expression.lower()
    if text == "@reboot":
        remedy = "write five fields, or clear it and start the definition on demand"
        raise _Malformed("names no time", remedy)
    if text.startswith("@") and text not in MACROS:
        remedy = f"write five fields, set interval_seconds, or use one of {', '.join(MACROS)}"
        raise _Malformed("is not a known shorthand", remedy)
    fields = MACROS.get(text, text).split(" ")
    if len(fields) == 5:
        return fields
    problem = f"has {len(fields)} field{'' if len(fields) == 1 else 's'}"
    if len(fields) == 6:
        problem += ", and engines read the sixth as seconds or as a year"
    remedy = "write five: minute, hour, day of month, month, day of week"
    raise _Malformed(problem, remedy)


def _read_fields(fields: list[str], day_and: bool) -> _Times:
    minute, hour, day, month, weekday = fields
    for spec, text in zip((_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY), fields, strict=True):
        if _HASHED.fullmatch(text):
            remedy = "write the value itself"
            raise _Malformed(f"has {text!r} as its {spec.name}, a hashed or random one", remedy)
    minutes, hours, months = (
        tuple(sorted(_read_list(spec, text)))
        for spec, text in ((_MINUTE, minute), (_HOUR, hour), (_MONTH, month))
    )
    days, last_day = _read_days(day, beside=weekday)
    weekdays = _read_weekdays(weekday, beside=day)
    counted = weekdays is not None and any(nth != _EVERY for _, nth in weekdays)
    if counted and days is not None and not day_and:
        remedy = "set day_and, or write * for one of the two"
        raise _Malformed(
            f"has {day!r} as its day of month beside {weekday!r} as its day of week, "
            "and Prefect would ignore the first",
            remedy,
        )
    times = _Times(minutes, hours, months, days, last_day, weekdays, day_and)
    if _passes_over_days(times):
        remedy = "keep to days 1 to 28 and L, and put days 29 to 31 into a second definition"
        raise _Malformed(
            f"has {day!r} as its day of month, and Prefect passes over some of its days "
            "where a month is too short for others",
            remedy,
        )
    return times


def _read_days(text: str, *, beside: str) -> tuple[frozenset[int] | None, bool]:
    """Read the days of the month, None for any, and whether the last one is among them.

    A list of all 31 days means any day, but only next to a day of week with a star in it; next to
    another one it is a list, and the two are joined. Prefect's croniter says so.
    """
    items = _split(_DAY, text)
    if "*" in items:
        _read_items(_DAY, items)
        return None, False
    days = _read_items(_DAY, [item for item in items if item != "l"])
    last_day = "l" in items
    if len(days) + last_day == 31 and "*" in beside:
        return None, False
    return frozenset(days), last_day


def _read_weekdays(text: str, *, beside: str) -> frozenset[tuple[int, int]] | None:
    """Read the days of the week, None for any, under the same rule as `_read_days`."""
    items = _split(_WEEKDAY, text)
    counted = [(item, match) for item in items if (match := _NTH.fullmatch(item))]
    plain = [item for item in items if not _NTH.fullmatch(item)]
    pairs = {(day, _EVERY) for day in _read_items(_WEEKDAY, plain)}
    if counted and plain:
        remedy = "use one kind, or make a second definition"
        problem = f"mixes {counted[0][0]!r} and {plain[0]!r} in its day of week"
        raise _Malformed(problem, remedy)
    for item, match in counted:
        pairs |= _read_nth(item, match)
    if not counted and ("*" in items or (len(pairs) == 7 and "*" in beside)):
        return None
    return frozenset(pairs)


def _read_nth(item: str, match: re.Match[str]) -> set[tuple[int, int]]:
    """Read `mon#1` (first Monday), `mon-fri#1` (first of each) or `l5` (last Friday)."""
    if match["last"]:
        return {(day, _LAST) for day in _read_item(_WEEKDAY, match["last"])}
    nth = int(match["nth"])
    if not 1 <= nth <= 5:
        remedy = "a month has a first to a fifth of each weekday, #1 to #5"
        raise _Malformed(f"has {item!r} as its day of week", remedy)
    return {(day, nth) for day in _read_item(_WEEKDAY, match["days"])}


def _read_list(spec: _Field, text: str) -> set[int]:
    return _read_items(spec, _split(spec, text))


def _read_items(spec: _Field, items: Iterable[str]) -> set[int]:
    return {value for item in items for value in _read_item(spec, item)}


def _split(spec: _Field, text: str) -> list[str]:
    """Split a field at its commas; a `?` is a star."""
    if "?" in text:
        if text != "?" or spec not in (_DAY, _WEEKDAY):
            remedy = "a ? stands alone, as day of month or day of week; write * or a value"
            raise _Malformed(f"has {text!r} as its {spec.name}", remedy)
        return ["*"]
    return text.split(",")


def _read_item(spec: _Field, item: str) -> Iterable[int]:
    """Read a star, a value or a range, each but a value with or without a step.

    Croniter of any version reads `5-5` as the whole field, which nobody means. Prefect's copy
    reads `59/15` as `*/15`, and a step in a range across the end (`50-10/7`) loses count there.
    """
    match = _ITEM.fullmatch(item)
    if match is None:
        raise _malformed(spec, item)
    step = int(match["step"] or 1)
    if step == 0:
        raise _Malformed(f"has {item!r} as its {spec.name}", "a step is at least 1")
    if match["low"] is None:
        return range(spec.low, spec.high + 1, step)
    low = _number(spec, match["low"], item)
    if match["high"]:
        return _read_range(spec, item, low, step)
    low = _sunday(spec, low)
    if match["step"] is None:
        return (low,)
    if low == spec.high:
        remedy = f"write {low}, or */{step}"
        raise _Malformed(f"has {item!r} as its {spec.name}, a step from the last value", remedy)
    return range(low, spec.high + 1, step)


def _read_range(spec: _Field, item: str, low: int, step: int) -> Iterable[int]:
    """Read a range, which may run across the end (`fri-mon`, `22-2`) unless it has a step."""
    written = item.partition("/")[0].partition("-")[2]
    high = spec.high if spec is _DAY and written == "l" else _number(spec, written, item)
    if high in (low, _sunday(spec, low)):
        problem = f"has {item!r} as its {spec.name}, which Prefect reads as *"
        raise _Malformed(problem, f"write {_sunday(spec, low)} for the one value, or *")
    low = _sunday(spec, low)
    if low <= high:
        return {_sunday(spec, value) for value in range(low, high + 1, step)}
    if step > 1:
        problem = f"has {item!r} as its {spec.name}, a step across the end of the range"
        raise _Malformed(problem, "write the values as a list")
    return (*range(low, spec.high + 1), *range(spec.low, high + 1))


def _number(spec: _Field, written: str, item: str) -> int:
    """Read a number or a name; 7 is a Sunday too, and kept for a range to end with."""
    if written in spec.names:
        return spec.names.index(written) + spec.first_name
    if not written.isdecimal():
        raise _malformed(spec, item)
    number = int(written)
    if not spec.low <= number <= spec.high + (spec is _WEEKDAY):
        raise _Malformed(f"has {number} as its {spec.name}", spec.bounds)
    return number


def _sunday(spec: _Field, value: int) -> int:
    return 0 if spec is _WEEKDAY and value == 7 else value


def _malformed(spec: _Field, item: str) -> _Malformed:
    forms = "write a number, a range such as 1-5, a step such as */2, or a list of these"
    if spec is _WEEKDAY:
        forms += "; mon#1 is the first Monday, L5 the last Friday"
    elif spec is _DAY:
        forms += "; L is the last day"
    return _Malformed(f"has {item!r} as its {spec.name}", f"{spec.bounds}: {forms}")


def _check_that_it_comes(times: _Times) -> None:
    """Refuse dates that never come, such as 30 February.

    That goes for the day of month alone even where the day of week would do: Prefect's croniter
    looks for both, and gives up if it fails to find one.
    """
    earliest = min(times.days or (1,))
    longest = max(_LONGEST_MONTH[month - 1] for month in times.months)
    if earliest > longest and not times.last_day:
        problem = f"has {earliest} as its day of month, a date that never comes"
        remedy = f"none of its months has more than {longest} days; write an earlier day or *"
        raise _Malformed(problem, remedy)
    # Within 28 years from 2000, every date falls on every weekday.
    if next(times.walls(datetime(2000, 1, 1), 1), None) is None:  # noqa: DTZ001
        remedy = "no such day of the month falls on such a day of the week; change one of them"
        raise _Malformed("names a date that never comes", remedy)


def _passes_over_days(times: _Times) -> bool:
    """Tell whether Prefect would leave out some of the days.

    Its croniter goes on from the last listed day that a month has to the next one listed, although
    that is beyond the month's end, and so lands past the first days of the month after: with days
    1, 11, 21 and 31 it goes from 21 February to 3 March. A last day (L) is missed the same way.
    """
    if times.days is None:
        return False
    for month in times.months:
        for length in {28, 29} if month == 2 else {_LONGEST_MONTH[month - 1]}:
            beyond = min((day for day in times.days if day > length), default=None)
            reached = max((day for day in times.days if day <= length), default=0)
            if beyond is None or reached >= length - times.last_day:
                continue
            lands_on = beyond - length
            follows = month % 12 + 1 in times.months
            if times.last_day or (follows and min(times.days) < lands_on):
                return True
    return False


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
