"""Which wall-clock minutes the five fields of a cron expression name.

`read` turns an expression into `Times`, and refuses with `Malformed` what is no expression, names
a date that never comes, or would not run in Prefect when it says. Time zones have no part in it:
`deployments.schedule.Cron` adds them.

Prefect carries its own old copy of croniter, and croniter 7 reads some expressions differently, so
this module reads them itself and accepts only what that copy gets right. What it gets wrong is
refused: see `_read_fields`, `_read_item`, `_check_that_it_comes` and `_passes_over_days`.
"""

import operator
import re
from calendar import monthrange
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, date, datetime
from functools import lru_cache
from typing import Literal

LONGEST_CRON = 255
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


class Malformed(ValueError):
    """Text that is no cron expression which Prefect can follow.

    Attributes:
        problem: What is wrong with it, to be read after the text.
        remedy: What to do about it.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy


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
        sunday = "0 to 7 (0 and 7 are Sunday)"
        numbers = sunday if self is _WEEKDAY else f"{self.low} to {self.high}"
        names = f", or from {self.names[0]} to {self.names[-1]}" if self.names else ""
        return f"{self.plural} go from {numbers}{names}"


_MINUTE = _Field("minute", "minutes", 0, 59)
_HOUR = _Field("hour", "hours", 0, 23)
_DAY = _Field("day of month", "days of the month", 1, 31)
_MONTHS = tuple("jan feb mar apr may jun jul aug sep oct nov dec".split())
_MONTH = _Field("month", "months", 1, 12, _MONTHS, 1)
_WEEKDAYS = tuple("sun mon tue wed thu fri sat".split())
_WEEKDAY = _Field("day of week", "days of the week", 0, 6, _WEEKDAYS)

_ITEM = re.compile(
    r"(?:\*|(?P<low>[0-9]+|[a-z]+)(?:-(?P<high>[0-9]+|[a-z]+))?)(?:/(?P<step>[0-9]+))?"
)
_NTH = re.compile(r"(?P<days>[0-9]+|[a-z]+(?:-[a-z]+)?)#(?P<nth>[0-9]+)|l(?P<last>[0-9]+)")
_HASHED = re.compile(r"[hr](?:[(/,].*)?")

_EVERY, _LAST = 0, -1  # which of a month's Mondays; the others are counted from 1
_LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class Times:
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
        passed = operator.lt if step > 0 else operator.gt
        first_day, first_hour = start.date(), start.hour
        for day in self._dates(start, step):
            for hour in self.hours[::step]:
                if day == first_day and passed(hour, first_hour):
                    continue
                for minute in self.minutes[::step]:
                    wall = datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001
                    if not passed(wall, start):
                        yield wall

    def _dates(self, start: datetime, step: Literal[1, -1]) -> Iterator[date]:
        """Yield every matching day from that of `start` on."""
        passed = operator.lt if step > 0 else operator.gt
        for year in range(start.year, start.year + step * (HORIZON + 1), step):
            if not MINYEAR < year < MAXYEAR:  # where no time zone can push it over the edge
                return
            for month in self.months[::step]:
                if passed((year, month), (start.year, start.month)):
                    continue
                for number in self._days_in(year, month)[::step]:
                    day = date(year, month, number)
                    if not passed(day, start.date()):
                        yield day

    def _days_in(self, year: int, month: int) -> Sequence[int]:
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


def single_spaced(expression: object) -> str:
    """Return a cron expression with single spaces.

    Raises:
        Malformed: It is no text, empty, too long, or not ASCII.
    """
    if not isinstance(expression, str):
        raise Malformed("is not text", "write five fields")
    text = " ".join(expression.split())
    if not text:
        remedy = "write five fields, or clear it to run on demand only"
        raise Malformed("is empty", remedy)
    if len(text) > LONGEST_CRON:
        problem = f"is {len(text)} characters long"
        remedy = f"shorten it to {LONGEST_CRON}, with ranges and steps instead of lists"
        raise Malformed(problem, remedy)
    if not text.isascii():
        strange = next(char for char in text if not char.isascii())
        remedy = "write it with plain digits, letters and signs"
        raise Malformed(f"contains {strange!r}", remedy)
    return text


@lru_cache(maxsize=4096)
def read(expression: str, day_and: bool) -> Times:
    """Read a single-spaced expression, five fields or one of `MACROS`.

    Args:
        expression: What `single_spaced` returned.
        day_and: Day of month and day of week must both match; by default either is enough.

    Raises:
        Malformed: It cannot be read, names a date that never comes, or would not run in Prefect
            at the times that it names.
    """
    times = _read_fields(_five_fields(expression), day_and)
    _check_that_it_comes(times)
    return times


def _five_fields(expression: str) -> list[str]:
    text = expression.lower()
    if text == "@reboot":
        remedy = "write five fields, or clear it and start the definition on demand"
        raise Malformed("names no time", remedy)
    if text.startswith("@") and text not in MACROS:
        remedy = f"write five fields, set interval_seconds, or use one of {', '.join(MACROS)}"
        raise Malformed("is not a known shorthand", remedy)
    fields = MACROS.get(text, text).split(" ")
    if len(fields) == 5:
        return fields
    problem = f"has {len(fields)} field{'' if len(fields) == 1 else 's'}"
    if len(fields) == 6:
        problem += ", and engines read the sixth as seconds or as a year"
    remedy = "write five: minute, hour, day of month, month, day of week"
    raise Malformed(problem, remedy)


def _read_fields(fields: list[str], day_and: bool) -> Times:
    minute, hour, day, month, weekday = fields
    for spec, text in zip((_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY), fields, strict=True):
        if _HASHED.fullmatch(text):
            remedy = "write the value itself"
            raise Malformed(f"has {text!r} as its {spec.name}, a hashed or random one", remedy)
    minutes, hours, months = (
        tuple(sorted(_read_items(spec, _split(spec, text))))
        for spec, text in ((_MINUTE, minute), (_HOUR, hour), (_MONTH, month))
    )
    days, last_day = _read_days(day, beside=weekday)
    weekdays = _read_weekdays(weekday, beside=day)
    counted = weekdays is not None and any(nth != _EVERY for _, nth in weekdays)
    if counted and days is not None and not day_and:
        remedy = "set day_and, or write * for one of the two"
        raise Malformed(
            f"has {day!r} as its day of month beside {weekday!r} as its day of week, "
            "and Prefect would ignore the first",
            remedy,
        )
    times = Times(minutes, hours, months, days, last_day, weekdays, day_and)
    if _passes_over_days(times):
        remedy = "keep to days 1 to 28 and L, and put days 29 to 31 into a second definition"
        raise Malformed(
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
        raise Malformed(problem, remedy)
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
        raise Malformed(f"has {item!r} as its day of week", remedy)
    return {(day, nth) for day in _read_item(_WEEKDAY, match["days"])}


def _read_items(spec: _Field, items: Iterable[str]) -> set[int]:
    return {value for item in items for value in _read_item(spec, item)}


def _split(spec: _Field, text: str) -> list[str]:
    """Split a field at its commas; a `?` is a star."""
    if "?" in text:
        if text != "?" or spec not in (_DAY, _WEEKDAY):
            remedy = "a ? stands alone, as day of month or day of week; write * or a value"
            raise Malformed(f"has {text!r} as its {spec.name}", remedy)
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
        raise Malformed(f"has {item!r} as its {spec.name}", "a step is at least 1")
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
        raise Malformed(f"has {item!r} as its {spec.name}, a step from the last value", remedy)
    return range(low, spec.high + 1, step)


def _read_range(spec: _Field, item: str, low: int, step: int) -> Iterable[int]:
    """Read a range, which may run across the end (`fri-mon`, `22-2`) unless it has a step."""
    written = item.partition("/")[0].partition("-")[2]
    high = spec.high if spec is _DAY and written == "l" else _number(spec, written, item)
    if high in (low, _sunday(spec, low)):
        problem = f"has {item!r} as its {spec.name}, which Prefect reads as *"
        raise Malformed(problem, f"write {_sunday(spec, low)} for the one value, or *")
    low = _sunday(spec, low)
    if low <= high:
        return {_sunday(spec, value) for value in range(low, high + 1, step)}
    if step > 1:
        problem = f"has {item!r} as its {spec.name}, a step across the end of the range"
        raise Malformed(problem, "write the values as a list")
    return (*range(low, spec.high + 1), *range(spec.low, high + 1))


def _number(spec: _Field, written: str, item: str) -> int:
    """Read a number or a name; 7 is a Sunday too, and kept for a range to end with."""
    if written in spec.names:
        return spec.names.index(written) + spec.first_name
    if not written.isdecimal():
        raise _malformed(spec, item)
    number = int(written)
    if not spec.low <= number <= spec.high + (spec is _WEEKDAY):
        raise Malformed(f"has {number} as its {spec.name}", spec.bounds)
    return number


def _sunday(spec: _Field, value: int) -> int:
    return 0 if spec is _WEEKDAY and value == 7 else value


def _malformed(spec: _Field, item: str) -> Malformed:
    forms = "write a number, a range such as 1-5, a step such as */2, or a list of these"
    if spec is _WEEKDAY:
        forms += "; mon#1 is the first Monday, L5 the last Friday"
    elif spec is _DAY:
        forms += "; L is the last day"
    return Malformed(f"has {item!r} as its {spec.name}", f"{spec.bounds}: {forms}")


def _check_that_it_comes(times: Times) -> None:
    """Refuse dates that never come, such as 30 February.

    That goes for the day of month alone even where the day of week would do: Prefect's croniter
    looks for both, and gives up if it fails to find one.
    """
    earliest = min(times.days or (1,))
    longest = max(_LONGEST_MONTH[month - 1] for month in times.months)
    if earliest > longest and not times.last_day:
        problem = f"has {earliest} as its day of month, a date that never comes"
        remedy = f"none of its months has more than {longest} days; write an earlier day or *"
        raise Malformed(problem, remedy)
    # Within 28 years from 2000, every date falls on every weekday.
    if next(times.walls(datetime(2000, 1, 1), 1), None) is None:  # noqa: DTZ001
        remedy = "no such day of the month falls on such a day of the week; change one of them"
        raise Malformed("names a date that never comes", remedy)


def _passes_over_days(times: Times) -> bool:
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
