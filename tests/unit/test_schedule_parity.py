"""`deployments.schedule` against the schedules of the Prefect that is installed.

Prefect 3.9 agrees everywhere. Prefect 3.8 on Python before 3.13 does not where clocks change:

* A skipped time is moved back by the gap, not forward (`30 2 * * *` in Berlin runs at 01:30).
* Asked within the gap's length before such a change, it also returns times that are past.
* Asked within the gap's length after it, it has forgotten the times that were skipped.
* Asked in a repeated hour, it returns times of the hour's first pass, which are past.

So for that Prefect the comparison leaves out occurrences less than a gap's length away from a
skipped hour (`in_gap_window`), and for any Prefect dates before the one asked for. Nothing else.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import prefect
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from prefect.client.schemas.objects import DeploymentSchedule as ClientSchedule
from prefect.server.schemas.actions import DeploymentScheduleCreate
from prefect.server.schemas.core import DeploymentSchedule
from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

from deployments.schedule import MACROS, Cron, Interval, InvalidSchedule, Once, canonical

TICK = timedelta.resolution
HOUR = timedelta(hours=1)
ZONES = [
    *("UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/St_Johns"),
    *("Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia", "Africa/Casablanca", "Africa/Cairo"),
    *("America/Sao_Paulo", "America/Santiago", "Pacific/Chatham", "Asia/Gaza", "Europe/Dublin"),
]
quickly = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True, scope="module")
def cached_time_zones() -> Iterator[None]:
    """Spare Prefect the listing of all time zones, 20 ms, at every validation."""
    with pytest.MonkeyPatch.context() as patch:
        zones = tuple(available_timezones())
        patch.setattr("prefect._internal.schemas.validators.get_timezones", lambda: zones)
        yield


def asked(schedule: Any, start: datetime, count: int) -> list[datetime]:
    """Return Prefect's dates from `start` on, in UTC, ascending, and without its own class."""
    dates = schedule._get_dates_generator(n=count, start=start)
    return sorted(datetime.combine(date, date.timetz()).astimezone(UTC) for date in dates)


def offset(zone: ZoneInfo, at: datetime) -> timedelta:
    found = at.astimezone(zone).utcoffset()
    assert found is not None
    return found


def change_between(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Return when the offset changes from the one at `before`, to the second."""
    first = offset(zone, before)
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        before, after = (middle, after) if offset(zone, middle) == first else (before, middle)
    return after.replace(microsecond=0)


@cache
def changes(name: str) -> list[datetime]:
    """Return when clocks changed in a zone between 2005 and 2030."""
    zone, day = ZoneInfo(name), timedelta(days=1)
    days = [datetime(2005, 1, 1, tzinfo=UTC) + n * day for n in range(25 * 365)]
    return [
        change_between(zone, at, at + day)
        for at in days
        if offset(zone, at) != offset(zone, at + day)
    ]


def in_gap_window(zone: ZoneInfo, at: datetime) -> bool:
    """Tell whether `at` is less than a gap's length before or after the gap in `zone`."""
    before, after = at - 25 * HOUR, at + 25 * HOUR
    gap = offset(zone, after) - offset(zone, before)
    if gap <= timedelta():
        return False
    change = change_between(zone, before, after)
    return change - gap <= at < change + gap


def moves_forward() -> bool:
    schedule = CronSchedule(cron="30 2 * * *", timezone="Europe/Berlin")
    start = datetime(2026, 3, 28, 12, tzinfo=UTC)
    return asked(schedule, start, 1) == [datetime(2026, 3, 29, 1, 30, tzinfo=UTC)]


# Cron expressions: mostly good ones, and text of all kinds.


def values(low: int, high: int, names: str = "") -> st.SearchStrategy[str]:
    return st.one_of(st.integers(low, high).map(str), st.sampled_from(names.split() or [str(low)]))


def fields(low: int, high: int, names: str = "", special: str = "") -> st.SearchStrategy[str]:
    value = values(low, high, names)
    span = st.builds("{}-{}".format, value, value)
    step = st.builds("{}/{}".format, st.one_of(st.just("*"), value, span), st.integers(1, high))
    item = st.one_of(value, value, span, step, *map(st.just, special.split()))
    return st.one_of(
        st.just("*"), item, st.lists(item, min_size=1, max_size=4, unique=True).map(",".join)
    )


MONTH_NAMES = "jan feb mar apr may jun jul aug sep oct nov dec"
DAY_NAMES = "sun mon tue wed thu fri sat"
FIELDS = (
    fields(0, 59),
    fields(0, 23),
    fields(1, 31, special="L 15-L ?"),
    fields(1, 12, MONTH_NAMES),
    fields(0, 7, DAY_NAMES, special="mon#1 5#3 L5 L0 tue-thu#2 7#5 ?"),
)
CRONS = st.tuples(*FIELDS).map(" ".join)
OFTEN = st.tuples(*FIELDS[:2], st.just("* * *")).map(" ".join)
SCRAPS = st.one_of(
    st.text(alphabet="0123456789*/,-", max_size=6),
    st.text(alphabet="0123456789*/,-?#lLwWhHrR()_+.@éx٣", max_size=6),
    st.sampled_from(f"{MONTH_NAMES} {DAY_NAMES} r/5 R(1-9) h H/2 l 00 007 0-0 5-0 7-7".split()),
)
TEXTS = st.one_of(
    CRONS,
    st.tuples(*(st.one_of(field, field, SCRAPS) for field in FIELDS)).map(" ".join),
    st.tuples(*(st.one_of(st.just("*"), SCRAPS) for _ in FIELDS)).map(" ".join),
    st.lists(SCRAPS, max_size=8).map(" ".join),
    st.sampled_from([*MACROS, "@reboot", "@minutely", "@DAILY", "@hourly *", ""]),
    st.text(max_size=12),
)

# What Prefect accepts, and Rota refuses all the same, by the words of the refusal.
REFUSED_ALL_THE_SAME = re.compile(
    r"has [67] fields"  # Prefect reads seconds, and a year
    r"|a hashed or random one"  # Prefect overlooks `r/5` and draws a number at each reading
    r"|which Prefect reads as \*"  # 5-5
    r"|has 0 as its (day of month|month)"  # 5-0 is 5-31 to Prefect
    r"|a step from the last value"  # 59/15
    r"|a step across the end"  # 50-10/7
    r"|mixes .* in its day of week"  # *,mon#1
    r"|Prefect would ignore the first"  # 13 beside fri#2
    r"|Prefect passes over"  # days 1,31
    r"|a date that never comes"
    r"|contains '"  # digits of other scripts
    r"|is empty|characters long"
)


def accepted_by_prefect(cron: str) -> bool:
    try:
        CronSchedule(cron=cron)
    except ValueError:
        return False
    return True


class TestAcceptance:
    @settings(quickly, max_examples=1_500)
    @given(cron=TEXTS, day_and=st.booleans())
    @example(cron="0 0 29 2 1", day_and=True)
    @example(cron="0 0 29 2 mon#5", day_and=True)
    @example(cron="r/5 * * * *", day_and=False)
    def test_what_is_accepted_here_runs_in_prefect_and_the_reverse(self, cron: str, day_and: bool):
        try:
            schedule = Cron(cron, day_and=day_and)
        except InvalidSchedule as refusal:
            known = REFUSED_ALL_THE_SAME.search(refusal.problem)
            assert known or not accepted_by_prefect(cron)
            return
        prefects = CronSchedule(cron=schedule.expression, day_or=not day_and)
        assert asked(prefects, datetime(2026, 1, 1, tzinfo=UTC), 2)

    @pytest.mark.parametrize("macro", MACROS)
    def test_shorthands(self, macro: str):
        assert accepted_by_prefect(macro)

    def test_every_time_zone_runs_in_prefect(self):
        for name in sorted(available_timezones() - {"Factory", "localtime"}):
            body = Cron("0 3 * * *", name).to_prefect()
            assert asked(CronSchedule(**body), datetime(2026, 1, 1, tzinfo=UTC), 1)

    @pytest.mark.parametrize("zone", ["Europe/Berln", "europe/berlin", "GMT+25"])
    def test_unknown_time_zone(self, zone: str):
        with pytest.raises(InvalidSchedule):
            Cron("0 3 * * *", zone)
        with pytest.raises(ValueError, match="Invalid timezone"):
            CronSchedule(cron="0 3 * * *", timezone=zone)


def nearest_second(at: datetime) -> datetime:
    return (at + timedelta(milliseconds=1)).replace(microsecond=0)


@st.composite
def moments(draw: st.DrawFn, zone: str) -> datetime:
    """Draw an instant, often one shortly before or after a change of clocks."""
    if changes(zone) and draw(st.booleans()):
        away = st.timedeltas(timedelta(hours=-3), timedelta(hours=3))
        exactly = st.sampled_from([timedelta(), TICK, -TICK, -timedelta(seconds=1)])
        return draw(st.sampled_from(changes(zone))) + draw(st.one_of(away, exactly))
    return draw(st.datetimes(datetime(1980, 1, 1), datetime(2040, 1, 1))).replace(  # noqa: DTZ001
        tzinfo=UTC
    )


class TestCron:
    @settings(quickly, max_examples=500)
    @given(
        cron=st.one_of(CRONS, OFTEN),
        zone=st.sampled_from(ZONES),
        day_and=st.booleans(),
        data=st.data(),
    )
    def test_first_ten_dates(self, cron: str, zone: str, day_and: bool, data: st.DataObject):
        try:
            schedule = Cron(cron, zone, day_and)
        except InvalidSchedule:
            assume(False)
        start = data.draw(moments(zone), label="start")
        ours = schedule.occurrences(start - TICK, 60)
        assert ours == sorted(set(ours))
        theirs = asked(CronSchedule(**schedule.to_prefect()), start, 60)
        # Prefect counts in floating point, which loses microseconds in centuries to come.
        theirs = [nearest_second(at) for at in theirs if at >= start]
        if not moves_forward():
            place = ZoneInfo(zone)
            ours = [at for at in ours if not in_gap_window(place, at)]
            theirs = [at for at in theirs if not in_gap_window(place, at)]
        count = min(10, len(ours), len(theirs))
        assert ours[:count] == theirs[:count]

    def test_prefect_moves_skipped_times_forward_from_3_9_on(self):
        major, minor = (int(part) for part in prefect.__version__.split(".")[:2])
        if (major, minor) >= (3, 9):
            assert moves_forward()

    @pytest.mark.parametrize(
        ("days", "lost"),
        [("*/10", "2026-03-01"), ("1,31", "2026-03-01"), ("30,L", "2026-02-28")],
    )
    def test_prefect_still_passes_over_days(self, days: str, lost: str):
        """If this fails, Prefect has mended its croniter: drop `_passes_over_days`."""
        schedule = CronSchedule(cron=f"0 0 {days} * *")
        dates = asked(schedule, datetime(2026, 2, 5, tzinfo=UTC), 10)
        assert lost not in {f"{date:%Y-%m-%d}" for date in dates}

    @settings(quickly, max_examples=150)
    @given(days=st.sets(st.integers(1, 31), min_size=1, max_size=6), last=st.booleans())
    def test_prefect_passes_over_days_only_where_they_are_refused(self, days: set[int], last: bool):
        cron = f"0 0 {','.join(map(str, days))}{',L' if last else ''} * *"
        due = set(asked(CronSchedule(cron=cron), datetime(2027, 1, 1, tzinfo=UTC), 120))
        wanted = {
            at
            for n in range((max(due) - min(due)).days + 1)
            if (at := min(due) + timedelta(days=n)).day in days
            or (last and (at + timedelta(days=1)).day == 1)
        }
        if due == wanted:
            assert Cron(cron)
        else:
            assert due < wanted
            with pytest.raises(InvalidSchedule, match="Prefect passes over"):
                Cron(cron)


class TestInterval:
    @settings(quickly, max_examples=200)
    @given(
        seconds=st.one_of(st.integers(60, 100_000), st.integers(60, 10 * 365 * 86_400)),
        anchor=st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001
        start=st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001
    )
    def test_first_dates(self, seconds: int, anchor: datetime, start: datetime):
        schedule = Interval(seconds, anchor.replace(tzinfo=UTC))
        start = start.replace(tzinfo=UTC)
        ours = schedule.occurrences(start - TICK, 5)
        assert ours == asked(IntervalSchedule(**schedule.to_prefect()), start, 5)


class TestOnce:
    @settings(quickly, max_examples=100)
    @given(at=st.datetimes(), away=st.timedeltas(timedelta(days=-2), timedelta(days=2)))
    def test_only_date(self, at: datetime, away: timedelta):
        assume(datetime(1, 1, 4) < at < datetime(9999, 12, 28))  # noqa: DTZ001
        schedule = Once(at.replace(tzinfo=UTC))
        start = schedule.at + away
        ours = schedule.occurrences(start - TICK, 3)
        assert ours == asked(RRuleSchedule(**schedule.to_prefect()), start, 3)


class TestForm:
    @pytest.mark.parametrize(
        "schedule",
        [
            Cron("0 3 * * *", "Europe/Berlin"),
            Cron("0 3 13 * 5", day_and=True),
            Cron("@Daily"),
            Interval(90, datetime(2026, 1, 1, 12, 0, 30, 250_000, tzinfo=UTC)),
            Interval(10 * 365 * 86_400, datetime(1999, 1, 1, tzinfo=UTC)),
            Once(datetime(2026, 5, 1, 3, tzinfo=UTC)),
            Once(datetime(31, 5, 1, 3, tzinfo=UTC)),
        ],
    )
    def test_prefect_gives_back_what_it_was_given(self, schedule: Cron | Interval | Once):
        body = schedule.to_prefect()
        sent = DeploymentScheduleCreate.model_validate({"schedule": body})
        received = sent.model_dump(mode="json")["schedule"]
        owned = {"schedule": received, "active": True, "deployment_id": "0" * 32}
        stored = DeploymentSchedule.model_validate(owned).model_dump(mode="json")["schedule"]
        client = ClientSchedule.model_validate(owned).model_dump(mode="json")["schedule"]
        assert received == stored == client == body
        assert canonical(client) == body

    @settings(quickly, max_examples=100)
    @given(
        seconds=st.integers(60, 10**8),
        anchor=st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001
        zone=st.sampled_from(ZONES),
    )
    def test_canonical_form_is_the_same_however_prefect_writes_it(
        self, seconds: int, anchor: datetime, zone: str
    ):
        schedule = Interval(seconds, anchor.replace(tzinfo=UTC))
        elsewhere = schedule.anchor.astimezone(ZoneInfo(zone)).isoformat()
        for interval in (seconds, f"PT{seconds}S", timedelta(seconds=seconds)):
            body = {"interval": interval, "anchor_date": elsewhere, "timezone": "UTC"}
            answer = IntervalSchedule.model_validate(body).model_dump(mode="json")
            assert canonical(answer) == schedule.to_prefect()
