"""What is due when, and what is refused: `deployments.schedule` on its own, without Prefect."""

import copy
import dataclasses
import itertools
import pickle
import time
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.schedule import (
    HORIZON,
    LONGEST_INTERVAL,
    MACROS,
    Cron,
    Interval,
    InvalidSchedule,
    Once,
    build,
    canonical,
)

CREATED = datetime(2026, 1, 1, 12, 0, 30, 250_000, tzinfo=UTC)
TICK = timedelta.resolution

CRONS = [
    *("* * * * *", "*/7 * * * *", "30 2 * * *", "20,40 1-3 * * *", "15 0 * * *", "0 0 1 * *"),
    *("5 4 L * *", "0 12 * * fri", "0 0 29 2 *", "0 3 * * L5", "9 2 13 * 5"),
]
ZONES = [
    *("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"),
    *("America/St_Johns", "Pacific/Apia", "Africa/Cairo", "America/Sao_Paulo"),
]
CHANGES_OF_CLOCKS = [
    *("2026-03-29 01:00", "2026-10-25 01:00", "2026-03-08 07:00", "2026-11-01 06:00"),
    *("2026-10-03 15:30", "2026-04-04 15:00", "2011-12-30 10:00", "2017-10-15 03:00"),
]
MOMENTS = st.one_of(
    st.datetimes(datetime(1995, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001
    st.builds(
        lambda change, away: datetime.fromisoformat(change) + away,
        st.sampled_from(CHANGES_OF_CLOCKS),
        st.timedeltas(timedelta(hours=-26), timedelta(hours=26)),
    ),
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def texts(instants: list[datetime]) -> list[str]:
    return [f"{instant:%Y-%m-%d %H:%M}" for instant in instants]


def local(instants: list[datetime], zone: str) -> list[str]:
    return [f"{instant.astimezone(ZoneInfo(zone)):%m-%d %H:%M%z}" for instant in instants]


def refusal(**columns: object) -> str:
    with pytest.raises(InvalidSchedule) as caught:
        build(created_at=CREATED, **columns)  # type: ignore[arg-type]
    return str(caught.value)


class TestBuild:
    def test_no_column_means_on_demand(self):
        assert build(created_at=CREATED) is None

    def test_cron(self):
        built = build(cron="0 3 * * *", timezone="Europe/Berlin", day_and=True, created_at=CREATED)
        assert built == Cron("0 3 * * *", "Europe/Berlin", day_and=True)

    def test_cron_is_single_spaced(self):
        assert build(cron="  0  3 *\t* * ", created_at=CREATED) == Cron("0 3 * * *")

    def test_interval_counts_from_the_second_of_creation(self):
        built = build(interval_seconds=300, created_at=CREATED)
        assert built == Interval(300, utc("2026-01-01 12:00:30"))

    def test_interval_counts_from_its_anchor_if_it_has_one(self):
        anchor = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
        built = build(interval_seconds=300, anchor_at=anchor, created_at=CREATED)
        assert built == Interval(300, utc("2026-01-01"))

    def test_interval_ignores_the_time_zone(self):
        built = build(interval_seconds=300, timezone="Europe/Berlin", created_at=CREATED)
        assert built == build(interval_seconds=300, created_at=CREATED)

    def test_once_is_floored_to_the_second(self):
        assert build(run_at=CREATED, created_at=CREATED) == Once(utc("2026-01-01 12:00:30"))

    def test_schedules_are_values(self):
        for schedule in (Cron("0 3 * * *"), Interval(60, CREATED), Once(CREATED)):
            assert copy.deepcopy(schedule) == schedule
            assert pickle.loads(pickle.dumps(schedule)) == schedule
            assert hash(schedule) == hash(copy.copy(schedule))
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(schedule, dataclasses.fields(schedule)[0].name, None)


class TestRefusals:
    @pytest.mark.parametrize(
        ("cron", "rest"),
        [
            ("0 25 * * *", "has 25 as its hour; hours go from 0 to 23"),
            ("60 * * * *", "has 60 as its minute; minutes go from 0 to 59"),
            ("0 0 0 * *", "has 0 as its day of month; days of the month go from 1 to 31"),
            ("0 0 5-32 * *", "has 32 as its day of month; days of the month go from 1 to 31"),
            ("0 0 * 13 *", "has 13 as its month; months go from 1 to 12, or from jan to dec"),
            (
                "0 0 * * 8",
                "has 8 as its day of week; "
                "days of the week go from 0 to 7 (0 and 7 are Sunday), or from sun to sat",
            ),
            (
                "0 x * * *",
                "has 'x' as its hour; hours go from 0 to 23: "
                "write a number, a range such as 1-5, a step such as */2, or a list of these",
            ),
            ("*/0 * * * *", "has '*/0' as its minute; a step is at least 1"),
            (
                "0 0 ? ? *",
                "has '?' as its month; "
                "a ? stands alone, as day of month or day of week; write * or a value",
            ),
            (
                "0 0 * * mon#6",
                "has 'mon#6' as its day of week; "
                "a month has a first to a fifth of each weekday, #1 to #5",
            ),
            (
                "H 3 * * *",
                "has 'h' as its minute, a hashed or random one; write the value itself",
            ),
            (
                "0 R(1-5) * * *",
                "has 'r(1-5)' as its hour, a hashed or random one; write the value itself",
            ),
        ],
    )
    def test_field(self, cron: str, rest: str):
        assert refusal(cron=cron) == f"cron: {cron!r} {rest}"

    @pytest.mark.parametrize(
        "cron",
        [
            *("-5 * * * *", "5- * * * *", ", * * * *", "1,,2 * * * *", "1-2-3 * * * *"),
            *("1/2/3 * * * *", "*-5 * * * *", "*5 * * * *", "5* * * * *", "1.5 * * * *"),
            *("1_0 * * * *", "+1 * * * *", "l * * * *", "0 0 l-5 * *", "0 0 LW * *"),
            *("0 0 15W * *", "0 0 * * L", "0 0 * * 5L", "0 0 * january *", "0 0 * mon *"),
            *("0 0 * * jan", "0 0 * * 1-5#2", "0 0 * * mon#"),
        ],
    )
    def test_malformed_field(self, cron: str):
        assert "write a number, a range such as 1-5, a step such as */2" in refusal(cron=cron)

    @pytest.mark.parametrize(
        ("cron", "count"),
        [
            ("3", "1 field"),
            ("0 3 * *", "4 fields"),
            ("0 0 3 * * *", "6 fields, and engines read the sixth as seconds or as a year"),
            ("0 0 0 1 1 * 2030", "7 fields"),
        ],
    )
    def test_number_of_fields(self, cron: str, count: str):
        remedy = "write five: minute, hour, day of month, month, day of week"
        assert refusal(cron=cron) == f"cron: {cron!r} has {count}; {remedy}"

    def test_empty(self):
        remedy = "write five fields, or clear it to run on demand only"
        assert refusal(cron="") == f"cron: '' is empty; {remedy}"
        assert refusal(cron=" \t\n") == f"cron: ' \\t\\n' is empty; {remedy}"

    def test_over_long_is_not_echoed(self):
        message = refusal(cron="0," * 5_000 + "0 * * * *")
        assert "is 10009 characters long; shorten it to 255" in message
        assert len(message) < 200

    def test_not_ascii(self):
        assert "contains '\\u0663'" in ascii(refusal(cron="٣ * * * *"))

    def test_not_text(self):
        assert refusal(cron=5) == "cron: 5 is not text; write five fields"

    @pytest.mark.parametrize("cron", ["@reboot", "@minutely", "@every 5m", "@", "@dailyx"])
    def test_shorthand(self, cron: str):
        assert refusal(cron=cron).startswith(f"cron: {cron!r} ")

    @pytest.mark.parametrize(
        ("cron", "day_and"),
        [
            ("0 0 30 2 *", False),
            ("0 0 31 2,4,6,9,11 *", False),
            ("0 0 30 2 mon", False),  # the engine gives up although Mondays come
            ("0 0 30 2 mon", True),
            ("0 0 20 * mon#1", True),
            ("0 0 28 2 mon#5", True),
        ],
    )
    def test_date_that_never_comes(self, cron: str, day_and: bool):
        assert "a date that never comes; " in refusal(cron=cron, day_and=day_and)

    @pytest.mark.parametrize(
        ("cron", "reason"),
        [
            ("5-5 * * * *", "which Prefect reads as *; write 5 for the one value, or *"),
            ("0 0 * * 7-0", "which Prefect reads as *; write 0 for the one value, or *"),
            ("59/15 * * * *", "a step from the last value; write 59, or */15"),
            ("0 0 * DEC/3 *", "a step from the last value; write 12, or */3"),
            ("50-10/7 * * * *", "a step across the end of the range; write the values as a list"),
            ("0 0 * * mon#1,tue", "mixes 'mon#1' and 'tue' in its day of week; use one kind"),
            ("0 0 13 * fri#2", "and Prefect would ignore the first; set day_and"),
        ],
    )
    def test_what_prefect_reads_otherwise(self, cron: str, reason: str):
        assert reason in refusal(cron=cron)

    @pytest.mark.parametrize("days", ["*/10", "*/5", "*/3", "1,31", "1,15,30", "31,l", "1,2,30"])
    def test_days_that_prefect_passes_over(self, days: str):
        assert f"has {days!r} as its day of month, and Prefect passes over" in refusal(
            cron=f"0 0 {days} * *"
        )

    @pytest.mark.parametrize(
        "days",
        ["*/2", "*/4", "*/7", "15,30", "15,L", "29-31", "31", "1-31", "15-L", "1,11,21", "10/10"],
    )
    def test_days_that_prefect_keeps_to(self, days: str):
        Cron(f"0 0 {days} * *")

    @pytest.mark.parametrize(
        ("zone", "remedy"),
        [
            ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
            ("europe/berlin", "did you mean 'Europe/Berlin'?"),
            ("New York", "did you mean 'America/New_York'?"),
            ("Mars/Olympus", "use an IANA name such as 'Europe/Berlin'"),
            ("GMT+1", "use an IANA name such as 'Europe/Berlin'"),
            ("../../etc/passwd", "use an IANA name such as 'Europe/Berlin'"),
            ("localtime", "use an IANA name such as 'Europe/Berlin'"),
            ("", "use an IANA name such as 'Europe/Berlin'"),
            (None, "use an IANA name such as 'Europe/Berlin'"),
        ],
    )
    def test_time_zone(self, zone: str | None, remedy: str):
        message = refusal(cron="0 3 * * *", timezone=zone)
        assert message == f"timezone: {zone!r} is not a known time zone; {remedy}"

    @pytest.mark.parametrize("columns", [{}, {"interval_seconds": 60}, {"run_at": CREATED}])
    def test_time_zone_that_has_no_effect_is_checked_too(self, columns: dict[str, object]):
        assert refusal(timezone="Nowhere", **columns).startswith("timezone: 'Nowhere'")

    @pytest.mark.parametrize(
        ("seconds", "rest"),
        [
            (59, "is too short; give at least 60 seconds"),
            (-60, "is too short; give at least 60 seconds"),
            (10**30, "is too long; give at most 315360000 seconds, ten years"),
            (True, "is not a whole number; give whole seconds"),
            (60.0, "is not a whole number; give whole seconds"),
            ("60", "is not a whole number; give whole seconds"),
        ],
    )
    def test_interval(self, seconds: object, rest: str):
        assert refusal(interval_seconds=seconds) == f"interval_seconds: {seconds!r} {rest}"

    @pytest.mark.parametrize(
        ("seconds", "rest"),
        [
            (0, "is too short; give at least 1 second"),
            (10**9, "is too long; give at most 315360000 seconds, ten years"),
            (True, "is not a whole number; give whole seconds"),
        ],
    )
    def test_after(self, seconds: object, rest: str):
        assert refusal(after_seconds=seconds) == f"after_seconds: {seconds!r} {rest}"

    def test_interval_bounds(self):
        assert Interval(60, CREATED).next_after(CREATED)
        assert Interval(LONGEST_INTERVAL, CREATED).next_after(CREATED)

    def test_instants_without_a_time_zone(self):
        naive = datetime(2026, 1, 1)  # noqa: DTZ001
        remedy = "has no time zone; add the UTC offset, such as +00:00"
        assert refusal(run_at=naive) == f"run_at: 2026-01-01T00:00:00 {remedy}"
        assert refusal(interval_seconds=60, anchor_at=naive).startswith("anchor_at: 2026-01-01")
        assert refusal(run_at="soon").startswith("run_at: 'soon' is not an instant; ")
        for schedule in (Cron("* * * * *"), Interval(60, CREATED), Once(CREATED)):
            with pytest.raises(ValueError, match="has no time zone"):
                schedule.next_after(naive)
            with pytest.raises(ValueError, match="has no time zone"):
                schedule.previous_until(naive)

    def test_columns_that_contradict_each_other(self):
        remedy = "keep the one that is meant and clear the rest"
        assert refusal(cron="0 3 * * *", interval_seconds=60, run_at=CREATED) == (
            f"cron: '0 3 * * *' stands beside interval_seconds and run_at; {remedy}"
        )
        assert refusal(run_at=CREATED, after_seconds=60) == (
            f"run_at: {CREATED.isoformat()} stands beside after_seconds; {remedy}"
        )
        assert refusal(interval_seconds=60, run_at=CREATED) == (
            f"interval_seconds: 60 stands beside run_at; {remedy}"
        )
        assert refusal(cron="0 3 * * *", anchor_at=utc("2026-01-01")) == (
            "anchor_at: 2026-01-01T00:00:00+00:00 has no interval to anchor; "
            "set interval_seconds, or clear anchor_at"
        )

    def test_refusal_tells_its_parts_and_survives_pickling(self):
        with pytest.raises(InvalidSchedule) as caught:
            Cron("0 25 * * *")
        revived = pickle.loads(pickle.dumps(caught.value))
        for error in (caught.value, revived):
            assert (error.field, error.value) == ("cron", "0 25 * * *")
            assert error.remedy == "hours go from 0 to 23"
            assert isinstance(error, ValueError)
        assert str(revived) == str(caught.value)

    @pytest.mark.parametrize(
        "cron",
        [
            "0-59/1," * 30 + "0 * * * *",
            "*/1000000 * * * *",
            f"*/{'9' * 240} * * * *",
            f"{'9' * 240} * * * *",
            "0 0 29 2 1",
            "0 0 29 2 mon#5",
            "0 0 31 2,4,6,9,11 1-5",
            "(" * 200 + " * * * *",
            "0 0 * * " + "mon-fri#1," * 20 + "sun#1",
            "@" * 255,
        ],
    )
    def test_pathological_cron_is_decided_at_once(self, cron: str):
        began = time.perf_counter()
        for day_and in (False, True):
            try:
                Cron(cron, day_and=day_and).next_after(CREATED)
            except InvalidSchedule:
                continue
        assert time.perf_counter() - began < 0.1


class TestCron:
    @pytest.mark.parametrize(
        ("cron", "expected"),
        [
            ("*/20 * * * *", ["2026-01-01 12:20", "2026-01-01 12:40", "2026-01-01 13:00"]),
            ("5/25 12 * * *", ["2026-01-01 12:05", "2026-01-01 12:30", "2026-01-01 12:55"]),
            ("0 22-1 * * *", ["2026-01-01 22:00", "2026-01-01 23:00", "2026-01-02 00:00"]),
            ("0 3 L * *", ["2026-01-31 03:00", "2026-02-28 03:00", "2026-03-31 03:00"]),
            ("0 3 30-L * ?", ["2026-01-30 03:00", "2026-01-31 03:00", "2026-03-30 03:00"]),
            ("0 3 * nov-jan sun", ["2026-01-04 03:00", "2026-01-11 03:00", "2026-01-18 03:00"]),
            ("0 3 * * fri-mon", ["2026-01-02 03:00", "2026-01-03 03:00", "2026-01-04 03:00"]),
            ("0 3 * * 5-7/2", ["2026-01-02 03:00", "2026-01-04 03:00", "2026-01-09 03:00"]),
            ("0 3 * * 7", ["2026-01-04 03:00", "2026-01-11 03:00", "2026-01-18 03:00"]),
            ("0 3 * * MON#1", ["2026-01-05 03:00", "2026-02-02 03:00", "2026-03-02 03:00"]),
            ("0 3 * * mon-tue#5", ["2026-03-30 03:00", "2026-03-31 03:00", "2026-06-29 03:00"]),
            ("0 3 * * L5", ["2026-01-30 03:00", "2026-02-27 03:00", "2026-03-27 03:00"]),
            ("0 3 13 * 5", ["2026-01-02 03:00", "2026-01-09 03:00", "2026-01-13 03:00"]),
            ("0 0 1-31 * 1", ["2026-01-02 00:00", "2026-01-03 00:00", "2026-01-04 00:00"]),
            ("0 0 1-31 * */2", ["2026-01-03 00:00", "2026-01-04 00:00", "2026-01-06 00:00"]),
            ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
        ],
    )
    def test_occurrences(self, cron: str, expected: list[str]):
        assert texts(Cron(cron).occurrences(utc("2026-01-01 12:00"), 3)) == expected

    def test_day_and_joins_the_days(self):
        thirteenth = Cron("0 3 13 * 5", day_and=True)
        assert texts(thirteenth.occurrences(CREATED, 3)) == [
            "2026-02-13 03:00",
            "2026-03-13 03:00",
            "2026-11-13 03:00",
        ]
        second_friday = Cron("0 3 10-14 * fri#2", day_and=True)
        assert texts(second_friday.occurrences(CREATED, 2)) == [
            "2026-02-13 03:00",
            "2026-03-13 03:00",
        ]

    def test_rarest_date_is_within_the_horizon(self):
        leap_monday = Cron("0 0 29 2 1", day_and=True)
        due = leap_monday.occurrences(CREATED, 15)
        assert texts(due[:3]) == ["2044-02-29 00:00", "2072-02-29 00:00", "2112-02-29 00:00"]
        gaps = [after.year - before.year for before, after in itertools.pairwise(due)]
        assert max(gaps) == 40 < HORIZON

    @pytest.mark.parametrize(("macro", "fields"), MACROS.items())
    def test_shorthands(self, macro: str, fields: str):
        assert Cron(macro).occurrences(CREATED, 5) == Cron(fields).occurrences(CREATED, 5)
        assert Cron(macro.upper()).expression == macro.upper()

    def test_next_is_strictly_later_and_previous_strictly_before(self):
        cron, due = Cron("0 3 * * *"), utc("2026-01-02 03:00")
        assert cron.next_after(due - TICK) == due
        assert cron.next_after(due) == due + timedelta(days=1)
        assert cron.previous_until(due + TICK) == due
        assert cron.previous_until(due) == due - timedelta(days=1)

    def test_wall_clock_follows_the_zone(self):
        due = Cron("0 9 * * *", "Europe/Berlin").occurrences(utc("2026-03-28 00:00"), 2)
        assert texts(due) == ["2026-03-28 08:00", "2026-03-29 07:00"]
        assert all(instant.tzinfo is UTC for instant in due)

    def test_skipped_time_is_moved_forward(self):
        due = Cron("30 2 * * *", "Europe/Berlin").occurrences(utc("2026-03-28 00:00"), 3)
        assert local(due, "Europe/Berlin") == [
            "03-28 02:30+0100",
            "03-29 03:30+0200",
            "03-30 02:30+0200",
        ]

    def test_skipped_time_is_still_due_after_the_change(self):
        cron = Cron("30 2 * * *", "Europe/Berlin")
        assert cron.next_after(utc("2026-03-29 01:10")) == utc("2026-03-29 01:30")
        assert cron.previous_until(utc("2026-03-29 12:00")) == utc("2026-03-29 01:30")

    def test_skipped_times_fall_together_with_the_ones_there(self):
        due = Cron("*/30 2-3 * * *", "Europe/Berlin").occurrences(utc("2026-03-29 00:00"), 3)
        assert local(due, "Europe/Berlin") == [
            "03-29 03:00+0200",
            "03-29 03:30+0200",
            "03-30 02:00+0200",
        ]

    def test_half_an_hour_skipped_stays_in_order(self):
        due = Cron("20,40 * * * *", "Australia/Lord_Howe").occurrences(utc("2026-10-03 15:00"), 5)
        assert local(due, "Australia/Lord_Howe") == [
            "10-04 01:40+1030",
            "10-04 02:40+1100",  # itself
            "10-04 02:50+1100",  # 02:20
            "10-04 03:20+1100",
            "10-04 03:40+1100",
        ]

    def test_whole_day_skipped(self):
        cron = Cron("0 12 * * fri", "Pacific/Apia")  # had no Friday, 30 December 2011
        due = cron.occurrences(utc("2011-12-20 00:00"), 3)
        assert local(due, "Pacific/Apia") == [
            "12-23 12:00-1000",
            "12-31 12:00+1400",
            "01-06 12:00+1400",
        ]

    def test_repeated_time_is_due_the_first_time_only(self):
        due = Cron("30 * * * *", "Europe/Berlin").occurrences(utc("2026-10-25 00:00"), 3)
        assert local(due, "Europe/Berlin") == [
            "10-25 02:30+0200",
            "10-25 03:30+0100",
            "10-25 04:30+0100",
        ]

    def test_asked_in_the_repeated_hour(self):
        cron = Cron("30 * * * *", "Europe/Berlin")
        assert cron.next_after(utc("2026-10-25 01:10")) == utc("2026-10-25 02:30")
        assert cron.previous_until(utc("2026-10-25 01:10")) == utc("2026-10-25 00:30")

    def test_nothing_left_near_the_end_of_time(self):
        cron = Cron("0 0 1 1 *")
        assert cron.next_after(utc("9998-06-01")) is None
        assert cron.occurrences(utc("9996-06-01"), 5) == [utc("9997-01-01"), utc("9998-01-01")]
        assert cron.previous_until(utc("0002-01-01")) is None

    @settings(max_examples=300, deadline=None)
    @given(cron=st.sampled_from(CRONS), zone=st.sampled_from(ZONES), at=MOMENTS)
    def test_previous_is_the_last_one_that_next_leads_to(self, cron: str, zone: str, at: datetime):
        schedule, at = Cron(cron, zone), at.replace(tzinfo=UTC)
        before, after = schedule.previous_until(at), schedule.next_after(at)
        assert before is not None
        assert after is not None
        assert before < at < after
        assert schedule.next_after(before - TICK) == before
        assert schedule.next_after(before) in (at, after)
        assert schedule.previous_until(after) in (at, before)


class TestInterval:
    def test_keeps_its_distance_from_the_anchor(self):
        interval = Interval(3300, utc("2026-01-01 00:00"))
        assert texts(interval.occurrences(utc("2026-01-01 00:00"), 3)) == [
            "2026-01-01 00:55",
            "2026-01-01 01:50",
            "2026-01-01 02:45",
        ]

    def test_next_is_strictly_later_and_previous_strictly_before(self):
        interval, due = Interval(3600, utc("2026-01-01")), utc("2026-01-05 07:00")
        assert interval.next_after(due - TICK) == due
        assert interval.next_after(due) == due + timedelta(hours=1)
        assert interval.previous_until(due + TICK) == due
        assert interval.previous_until(due) == due - timedelta(hours=1)

    def test_nothing_was_due_before_the_anchor(self):
        interval = Interval(3600, utc("2026-01-01"))
        assert interval.previous_until(utc("2025-12-31 12:00")) is None
        assert interval.previous_until(utc("2026-01-01")) is None
        assert interval.previous_until(utc("2026-01-01") + TICK) == utc("2026-01-01")

    def test_anchor_ahead_sets_the_phase_only(self):
        interval = Interval(3600, utc("2030-01-01 00:30"))
        assert interval.next_after(utc("2026-01-01")) == utc("2026-01-01 00:30")

    def test_elapsed_time_takes_no_notice_of_clocks(self):
        daily = build(
            interval_seconds=86_400,
            anchor_at=utc("2026-03-28 08:00"),
            timezone="Europe/Berlin",
            created_at=CREATED,
        )
        assert daily is not None
        assert daily.next_after(utc("2026-03-28 12:00")) == utc("2026-03-29 08:00")

    def test_nothing_left_at_the_end_of_time(self):
        assert len(Interval(LONGEST_INTERVAL, CREATED).occurrences(CREATED, 5_000)) < 1_000


class TestOnce:
    def test_is_due_once(self):
        due = utc("2026-05-01 03:00")
        once = Once(due)
        assert once.occurrences(due - TICK, 3) == [due]
        assert once.next_after(due) is None
        assert once.previous_until(due) is None
        assert once.previous_until(due + TICK) == due

    def test_is_kept_in_utc(self):
        assert Once(datetime(2026, 5, 1, 5, tzinfo=ZoneInfo("Europe/Berlin"))).at.hour == 3


class TestPrefectForm:
    def test_cron(self):
        assert Cron("0 3 * * *", "Europe/Berlin").to_prefect() == {
            "cron": "0 3 * * *",
            "timezone": "Europe/Berlin",
            "day_or": True,
        }
        assert Cron("0 3 13 * 5", day_and=True).to_prefect()["day_or"] is False

    def test_interval(self):
        assert Interval(300, CREATED).to_prefect() == {
            "interval": 300.0,
            "anchor_date": "2026-01-01T12:00:30Z",
            "timezone": "UTC",
        }

    def test_once(self):
        assert Once(utc("2026-05-01 03:00")).to_prefect() == {
            "rrule": "DTSTART:20260501T030000\nRRULE:FREQ=DAILY;COUNT=1",
            "timezone": "UTC",
        }
        assert Once(utc("0031-01-01")).to_prefect()["rrule"].startswith("DTSTART:00310101T000000\n")

    def test_canonical_leaves_rotas_own_form_alone(self):
        for schedule in (Cron("@daily"), Interval(90, CREATED), Once(CREATED)):
            assert canonical(schedule.to_prefect()) == schedule.to_prefect()

    @pytest.mark.parametrize(
        "interval",
        [3600, 3600.0, "PT1H", "PT60M", "PT3600S", "PT3600.0S", "3600", timedelta(hours=1)],
    )
    @pytest.mark.parametrize(
        "anchor",
        [
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00+00:00",
            "2026-01-01T02:00:00.000000+02:00",
            "2026-01-01T00:00:00",
            utc("2026-01-01"),
        ],
    )
    def test_canonical_interval(self, interval: object, anchor: object):
        expected = Interval(3600, utc("2026-01-01")).to_prefect()
        assert canonical({"interval": interval, "anchor_date": anchor}) == expected

    def test_canonical_longer_durations(self):
        week = canonical({"interval": "P1W", "anchor_date": None, "timezone": None})
        assert week == {"interval": 604_800.0, "anchor_date": None, "timezone": "UTC"}
        assert canonical({"interval": "P1DT1H1M1.5S"})["interval"] == 90_061.5

    def test_canonical_cron(self):
        answer = {"cron": "0  3 * * *", "timezone": None}
        assert canonical(answer) == Cron("0 3 * * *").to_prefect()

    def test_canonical_keeps_what_differs(self):
        for answer in (
            {"interval": "soon", "anchor_date": "then", "timezone": "Europe/Berlin"},
            {"interval": 60.0, "anchor_date": "2026-01-01T00:00:00.250000Z", "timezone": "UTC"},
            {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "day_or": False},
            {"rrule": "RRULE:FREQ=HOURLY", "timezone": "Europe/Berlin"},
            {},
        ):
            assert canonical(answer) == answer
