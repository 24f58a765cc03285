"""What a row becomes, what it is refused for, and when its deployment is paused."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.desired import (
    NEVER,
    Problem,
    Rules,
    Wanted,
    build_for,
    desired,
    missed_once,
    next_run,
    want,
)
from deployments.duties import Duty
from deployments.schedule import Once
from store.models import Definition

REPORT = Duty(
    name="report",
    flow_name="daily-report",
    description="Write a report.",
    schema={
        "title": "Parameters",
        "type": "object",
        "properties": {
            "recipient": {"title": "recipient", "type": "string", "minLength": 1, "position": 0},
            "limit": {"title": "limit", "type": "integer", "default": 10, "position": 1},
            "options": {
                "title": "options",
                "default": {},
                "type": "object",
                "properties": {"pages": {"type": "array", "items": {"type": "integer"}}},
                "position": 2,
            },
        },
        "required": ["recipient"],
        "definitions": {},
    },
)
RULES = Rules(
    instance="i1",
    duties={"report": REPORT},
    broken={"cleanup": "acme.cleanup:cleanup does not load: ImportError: No module named 'ssh'"},
    work_pools=("rota", "big-machines"),
)
ID = UUID("0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60")
WRITTEN = datetime(2026, 3, 1, 9, tzinfo=UTC)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TICK = timedelta.resolution


def row(**columns: Any) -> Definition:
    """A definition as PostgreSQL gives it back, an hourly one where `columns` say nothing else."""
    when = {"cron", "interval_seconds", "run_at", "after_seconds"} & columns.keys()
    defaults: dict[str, Any] = {
        "id": ID,
        "tenant": "acme",
        "name": "nightly-report",
        "duty": "report",
        "parameters": {"recipient": "ops"},
        "created_at": WRITTEN,
        "updated_at": WRITTEN,
    }
    return Definition(**(defaults | ({} if when else {"cron": "0 * * * *"}) | columns))


def utc(text: str) -> datetime:
    """`12:30` is that time on the day of `NOW`."""
    day = "" if "-" in text else "2026-03-01 "
    return datetime.fromisoformat(day + text).replace(tzinfo=UTC)


def problem(at: datetime = NOW, rules: Rules = RULES, **columns: Any) -> str:
    with pytest.raises(Problem) as caught:
        want(row(**columns), rules, at)
    return str(caught.value)


class TestSpec:
    def test_every_column_has_its_place(self):
        spec = want(
            row(
                cron="30 6 * * mon-fri",
                timezone="Europe/Berlin",
                parameters={"recipient": "ops", "limit": 3},
                overlap="skip",
                retries=2,
                retry_delay_seconds=90,
                timeout_seconds=60.0,
                tags=["finance", "daily", "finance"],
                work_pool="big-machines",
                job_variables={"env": {"TZ": "UTC"}, "memory": 512},
            ),
            RULES,
            NOW,
        ).spec

        assert dataclasses.asdict(spec) == {
            "definition_id": str(ID),
            "flow_name": "daily-report",
            "name": "acme.nightly-report",
            "description": "Write a report.",
            "entrypoint": "deployments.bound.report",
            "parameters": {"recipient": "ops", "limit": 3},
            "parameter_schema": REPORT.schema,
            "schedules": (
                {
                    "slug": "definition",
                    "active": True,
                    "parameters": {},
                    "schedule": {
                        "cron": "30 6 * * mon-fri",
                        "timezone": "Europe/Berlin",
                        "day_or": True,
                    },
                },
            ),
            "paused": False,
            "overlap": "CANCEL_NEW",
            "tags": ("rota:i1", "finance", "daily"),
            "work_pool": "big-machines",
            "work_queue": "acme",
            "job_variables": {
                "env": {
                    "TZ": "UTC",
                    "ROTA_RETRIES": "2",
                    "ROTA_RETRY_DELAY_SECONDS": "90",
                    "ROTA_TIMEOUT_SECONDS": "60",
                },
                "memory": 512,
            },
        }

    @pytest.mark.parametrize(
        ("overlap", "strategy"), [("allow", None), ("skip", "CANCEL_NEW"), ("queue", "ENQUEUE")]
    )
    def test_overlap(self, overlap, strategy):
        assert want(row(overlap=overlap), RULES, NOW).spec.overlap == strategy

    @pytest.mark.parametrize(
        ("columns", "description"),
        [
            ({}, "Write a report."),
            ({"title": "Nightly"}, "**Nightly**"),
            ({"title": "Nightly", "description": "For ops."}, "**Nightly**\n\nFor ops."),
            ({"pause_note": "Budget."}, "*Paused: Budget.*"),
        ],
    )
    def test_description(self, columns, description):
        assert want(row(**columns), RULES, NOW).spec.description == description

    def test_pool_is_the_default_one_where_none_is_named(self):
        assert want(row(), RULES, NOW).spec.work_pool == "rota"

    def test_pools_are_not_checked_where_nobody_asked_prefect(self):
        rules = dataclasses.replace(RULES, work_pools=None)

        assert want(row(work_pool="elsewhere"), rules, NOW).spec.work_pool == "elsewhere"

    def test_on_demand_has_no_schedule_and_is_not_paused(self):
        wanted = want(row(cron=None), RULES, NOW)

        assert wanted.spec.schedules == ()
        assert not wanted.spec.paused
        assert (wanted.schedule, wanted.next_run_at, wanted.changes_at) == (None, None, None)

    def test_the_row_is_left_as_it_was(self):
        definition = row(job_variables={"env": {"A": "1"}}, tags=["a", "a"])
        want(definition, RULES, NOW)

        assert definition.job_variables == {"env": {"A": "1"}}
        assert definition.tags == ["a", "a"]

    def test_the_policies_of_the_definition_go_over_the_environment_of_its_own(self):
        definition = row(retries=2, job_variables={"env": {"ROTA_RETRIES": "9"}})

        assert want(definition, RULES, NOW).spec.job_variables["env"]["ROTA_RETRIES"] == "2"

    def test_the_same_row_has_the_same_spec_at_any_time_of_its_window(self):
        one, other = (want(row(), RULES, at).spec for at in (NOW, NOW + timedelta(days=400)))

        assert one == other
        assert one.fingerprint == other.fingerprint


class TestProblems:
    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            # when
            (
                {"cron": "61 * * * *"},
                "cron: '61 * * * *' has 61 as its minute; minutes go from 0 to 59",
            ),
            (
                {"cron": "0 0 30 2 *"},
                "cron: '0 0 30 2 *' has 30 as its day of month, a date that never comes; none of "
                "its months has more than 29 days; write an earlier day or *",
            ),
            (
                {"cron": "* * * *"},
                "cron: '* * * *' has 4 fields; write five: minute, hour, day of month, month, day "
                "of week",
            ),
            ({"cron": ""}, "cron: '' is empty; write five fields, or clear it to run on demand"),
            (
                {"timezone": "Europe/Belrin"},
                "timezone: 'Europe/Belrin' is not a known time zone; did you mean 'Europe/Berlin'?",
            ),
            (
                {"timezone": "Moon"},
                "timezone: 'Moon' is not a known time zone; use an IANA name such as",
            ),
            (
                {"interval_seconds": 30},
                "interval_seconds: 30 is too short; give at least 60 seconds",
            ),
            (
                {"anchor_at": NOW},
                "anchor_at: 2026-03-01T12:00:00+00:00 has no interval to anchor; set",
            ),
            (
                {"run_at": utc("13:00"), "starts_at": utc("14:00")},
                "run_at: 2026-03-01T13:00:00Z lies before starts_at; move one of them",
            ),
            (
                {"run_at": utc("13:00"), "ends_at": utc("12:30")},
                "run_at: 2026-03-01T13:00:00Z lies after ends_at; move one of them",
            ),
            # what
            ({"duty": "reports"}, "duty: no duty is named 'reports'; did you mean 'report'?"),
            ({"duty": "ssh"}, "duty: no duty is named 'ssh'; there are report"),
            (
                {"duty": "cleanup"},
                "duty: acme.cleanup:cleanup does not load: ImportError: No module named 'ssh'; "
                "mend or reinstall the package that brings it",
            ),
            # parameters
            (
                {"parameters": {"recipient": "ops", "limits": 3}},
                "parameters.limits: report takes no such parameter; did you mean 'limit'?",
            ),
            (
                {"parameters": {"recipient": "ops", "x": 3}},
                "parameters.x: report takes no such parameter; there are limit, options, recipient",
            ),
            ({"parameters": {}}, "parameters: 'recipient' is missing; report takes it always"),
            (
                {"parameters": {"recipient": "ops", "limit": "many"}},
                "parameters.limit: 'many' does not fit; report takes {'type': 'integer'}",
            ),
            (
                {"parameters": {"recipient": "ops", "options": {"pages": [1, 2, "last"]}}},
                "parameters.options.pages.2: 'last' does not fit; report takes {'type': 'integer'}",
            ),
            (
                {"parameters": {"recipient": ""}},
                "parameters.recipient: '' does not fit; report takes {'type': 'string', "
                "'minLength': 1}",
            ),
            (
                {"parameters": {"recipient": "ops", "limit": 10**20}},
                "parameters: Prefect cannot take this value (Integer exceeds 64-bit range); write",
            ),
            (
                {"parameters": {"recipient": "ops", "options": {"x": float("inf")}}},
                "parameters: Prefect cannot take this value (a number is too large); write",
            ),
            # where
            (
                {"work_pool": "big-machine"},
                "work_pool: Prefect has no pool 'big-machine'; did you mean 'big-machines'?; make "
                "it with `prefect work-pool create`, or leave the field null for rota",
            ),
            (
                {"job_variables": {"env": ["A=1"]}},
                "job_variables.env: ['A=1'] is no object; write names and values",
            ),
            ({"job_variables": {"env": ""}}, "job_variables.env: '' is no object"),
            (
                {"job_variables": {"memory": 10**20}},
                "job_variables: Prefect cannot take this value (Integer exceeds 64-bit range)",
            ),
            # tags
            (
                {"tags": ["daily", "rota:i2"]},
                "tags: 'rota:i2' cannot be a tag; use 1 to 100 characters that do not begin with "
                "'rota:'",
            ),
            ({"tags": [""]}, "tags: '' cannot be a tag; use"),
            ({"tags": ["a" * 101]}, f"tags: '{'a' * 59}... cannot be a tag; use"),
        ],
    )
    def test_names_field_value_and_remedy(self, columns, expected):
        assert problem(**columns).startswith(expected)

    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            ({"overlap": "skip"}, "overlap: 'skip' would cancel runs of jobs, or hold them up"),
            ({"overlap": "queue"}, "overlap: 'queue' would cancel runs of jobs, or hold them up"),
            ({"retries": 3}, "retries: 3 would run for nothing"),
            ({"timeout_seconds": 60}, "timeout_seconds: 60 would count the time"),
        ],
    )
    def test_the_definition_of_jobs_has_no_policies_of_its_own(self, columns, expected):
        jobs = Duty(name="run_job", flow_name="run-job", description="", schema={})
        rules = dataclasses.replace(RULES, duties={"run_job": jobs})
        written = {"duty": "run_job", "parameters": {}}
        assert problem(rules=rules, **written, **columns).startswith(expected)
        want(row(**written), rules, NOW)

    @pytest.mark.parametrize(
        ("key", "clause"),
        [
            ("__prefect_kind", {"__prefect_kind": "jinja", "template": "{{ 1 }}"}),
            ("__prefect_kind", {"__prefect_kind": "workspace_variable", "variable_name": "token"}),
            ("$ref", {"$ref": {"block_document_id": "8d6ba7f9"}}),
        ],
    )
    @pytest.mark.parametrize("depth", [0, 1, 7, 120])
    def test_what_prefect_resolves_is_found_at_any_depth(self, key, clause, depth):
        value: Any = clause
        for _ in range(depth):
            value = {"inner": [1, value]}

        assert problem(parameters={"recipient": "ops", "options": value}) == (
            f"parameters: '{key}' is a key that Prefect itself resolves, and may not stand in a "
            "definition; write the value itself"
        )

    def test_a_reference_that_is_only_a_word_is_an_ordinary_value(self):
        parameters = {"recipient": "ops", "options": {"$ref": "#/definitions/Page"}}

        assert want(row(parameters=parameters), RULES, NOW).spec.parameters == parameters

    def test_nesting_has_a_limit(self):
        value: Any = {}
        for _ in range(400):
            value = {"inner": value}

        assert problem(parameters={"recipient": "ops", "options": value}) == (
            "parameters: Prefect cannot take this value (Recursion limit reached); write numbers "
            "that fit into 64 bits, or text, and nest at most 250 deep"
        )

    def test_other_rows_go_on(self):
        rows = [
            row(id=UUID(int=1)),
            row(id=UUID(int=2), cron="never"),
            row(id=UUID(int=3), duty="cleanup"),
            row(id=UUID(int=4), name="weekly-report", cron="0 0 * * 0"),
        ]

        found = desired(rows, RULES, NOW)

        assert list(found.wanted) == [str(UUID(int=1)), str(UUID(int=4))]
        assert [spec.name for spec in found.specs] == ["acme.nightly-report", "acme.weekly-report"]
        assert list(found.problems) == [str(UUID(int=2)), str(UUID(int=3))]
        assert found.problems[str(UUID(int=2))].startswith("cron: 'never' has 1 field; ")


class TestOnce:
    def test_ahead(self):
        wanted = want(row(run_at=utc("13:00")), RULES, NOW)

        assert wanted.next_run_at == utc("13:00")
        assert not wanted.spec.paused

    def test_past_when_it_was_written(self):
        assert problem(run_at=utc("08:59")) == (
            "run_at: 2026-03-01T08:59:00Z had passed when it was written; give a time ahead, or "
            "null to run on demand only"
        )

    def test_past_but_written_before_is_late_and_still_to_be_run(self):
        wanted = want(row(run_at=utc("10:00")), RULES, NOW)

        assert not wanted.spec.paused
        assert wanted.spec.schedules
        assert wanted.next_run_at is None

    def test_spent_may_be_edited_afterwards(self):
        spent = row(run_at=utc("10:00"), last_run_at=utc("10:00"), updated_at=utc("11:00"))

        assert want(spent, RULES, NOW).spec.schedules

    def test_run_before_and_given_a_new_date_that_has_passed(self):
        assert "had passed when it was written" in problem(
            run_at=utc("10:00"), last_run_at=utc("09:30"), updated_at=utc("11:00")
        )


class TestWindow:
    @pytest.mark.parametrize(
        ("columns", "resumes"),
        [
            # A minute early, so that the occurrence at the very start has its run in time.
            ({"starts_at": utc("13:00")}, utc("12:59")),
            ({"starts_at": utc("13:20")}, utc("13:19")),
            ({"cron": None, "starts_at": utc("13:20")}, utc("13:19")),
            # But never so early that an occurrence before the start is among the runs.
            ({"starts_at": utc("13:00:30")}, utc("13:00")),
            ({"cron": "* * * * *", "starts_at": utc("13:00")}, utc("12:59")),
            ({"cron": "* * * * *", "starts_at": utc("13:00:01")}, utc("13:00")),
            ({"cron": "* * * * *", "starts_at": utc("12:59:59.999999")}, utc("12:59")),
            ({"interval_seconds": 60, "starts_at": utc("13:00:30")}, utc("13:00")),
            # An interval is due before its anchor too.
            (
                {
                    "interval_seconds": 60,
                    "anchor_at": utc("2030-01-01 00:00"),
                    "starts_at": utc("13:00:30"),
                },
                utc("13:00"),
            ),
            # The later of the two counts.
            ({"starts_at": utc("13:00"), "paused_until": utc("14:00")}, utc("13:59")),
            ({"starts_at": utc("14:00"), "paused_until": utc("13:00")}, utc("13:59")),
        ],
    )
    def test_resumes(self, columns, resumes):
        definition = row(**columns)

        before = want(definition, RULES, NOW)
        assert before.spec.paused
        assert before.changes_at == resumes
        assert want(definition, RULES, resumes - TICK).spec.paused
        after = want(definition, RULES, resumes + TICK)
        assert not after.spec.paused
        assert after.changes_at is None
        if after.schedule:
            first = after.schedule.next_after(resumes)
            begins = max(filter(None, (definition.starts_at, definition.paused_until)))
            assert first == before.next_run_at == after.schedule.next_after(begins - TICK)

    @pytest.mark.parametrize(
        ("columns", "pauses"),
        [
            # At the last occurrence, so that the one after the end is never made.
            ({"ends_at": utc("14:30")}, utc("14:00")),
            ({"ends_at": utc("14:00")}, utc("14:00")),
            ({"ends_at": utc("13:59:59")}, utc("13:00")),
            ({"cron": "* * * * *", "ends_at": utc("14:00:59.9")}, utc("14:00")),
            ({"interval_seconds": 3600, "ends_at": utc("14:30")}, utc("14:00")),
            (
                {
                    "interval_seconds": 3600,
                    "anchor_at": utc("2030-01-01 00:15"),
                    "ends_at": utc("14:30"),
                },
                utc("14:15"),
            ),
            # One date may be late, and nothing is due on demand: both end at the end.
            ({"run_at": utc("13:00"), "ends_at": utc("14:30")}, utc("14:30")),
            ({"cron": None, "ends_at": utc("14:30")}, utc("14:30")),
        ],
    )
    def test_pauses(self, columns, pauses):
        definition = row(**columns)

        before = want(definition, RULES, NOW)
        assert not before.spec.paused
        assert before.changes_at == pauses
        assert not want(definition, RULES, pauses - TICK).spec.paused
        after = want(definition, RULES, pauses + TICK)
        assert after.spec.paused
        assert after.changes_at is None
        assert after.next_run_at is None

    def test_nothing_falls_into_the_window(self):
        wanted = want(row(starts_at=utc("13:10"), ends_at=utc("13:50")), RULES, utc("13:20"))

        assert wanted.spec.paused
        assert wanted.next_run_at is None

    def test_paused_beyond_the_end(self):
        definition = row(paused_until=utc("15:00"), ends_at=utc("14:00"))

        for at in (NOW, utc("13:30"), utc("14:59:30"), utc("16:00")):
            assert want(definition, RULES, at).spec.paused

    @pytest.mark.parametrize(
        "columns",
        [
            {"cron": "* * * * *", "timezone": "Pacific/Kiritimati"},
            {"cron": "0 3 * * *", "timezone": "America/Adak"},
            {"interval_seconds": 60},
            {"run_at": utc("13:00")},
            {"cron": None},
        ],
    )
    def test_infinities(self, columns):
        """PostgreSQL's `infinity` and `-infinity` come as Python's last and first instant."""
        never, ever = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)

        endless = want(row(**columns, starts_at=ever, paused_until=ever, ends_at=never), RULES, NOW)
        assert not endless.spec.paused
        assert endless.next_run_at == want(row(**columns), RULES, NOW).next_run_at
        for_ever = want(row(**columns, paused_until=never), RULES, NOW)
        assert for_ever.spec.paused
        assert for_ever.changes_at is None or for_ever.changes_at.year > 9000
        if "run_at" not in columns:
            assert want(row(**columns, ends_at=ever), RULES, NOW).spec.paused


SCHEDULES = st.sampled_from(
    [
        {"cron": "* * * * *"},
        {"cron": "*/7 * * * *"},
        {"cron": "0 * * * *"},
        {"cron": "30 2 * * *", "timezone": "Europe/Berlin"},
        {"cron": "*/20 1-3 * * *", "timezone": "Europe/Berlin"},
        {"interval_seconds": 60},
        {"interval_seconds": 97},
        {"interval_seconds": 3600, "anchor_at": utc("2030-01-01 00:15")},
        {"interval_seconds": 60, "anchor_at": utc("2030-01-01 00:00:30")},
        {"cron": None},
    ]
)
HOURS = 5
BASES = st.sampled_from(  # a plain day, and two on which the clocks of Berlin change
    [utc("2026-06-10 12:00"), utc("2026-03-28 23:00"), utc("2026-10-24 22:00")]
)
OFFSETS = st.one_of(
    st.integers(0, HOURS * 60).map(lambda minutes: timedelta(minutes=minutes)),
    st.integers(0, HOURS * 3600).map(lambda seconds: timedelta(seconds=seconds)),
    st.timedeltas(timedelta(0), timedelta(hours=HOURS)),
)
LATENESS = st.timedeltas(timedelta(milliseconds=10), timedelta(seconds=30))


def follow(
    definition: Definition, since: datetime, until: datetime, late: timedelta
) -> Iterator[tuple[datetime, Wanted]]:
    """Look at a definition as `watch` does: once, and then `late` after each `changes_at`."""
    at = since
    while at < until:
        wanted = want(definition, RULES, at)
        yield at, wanted
        if wanted.changes_at is None:
            return
        assert wanted.changes_at >= at
        at = wanted.changes_at + late


@st.composite
def windows(draw: st.DrawFn) -> tuple[dict[str, Any], datetime, timedelta]:
    base = draw(BASES)
    columns: dict[str, Any] = dict(draw(SCHEDULES))
    for name in ("starts_at", "paused_until", "ends_at"):
        offset = draw(st.none() | OFFSETS)
        columns[name] = None if offset is None else base + offset
    if columns["starts_at"] and columns["ends_at"]:
        starts_at, ends_at = sorted((columns["starts_at"], columns["ends_at"]))
        columns |= {"starts_at": starts_at, "ends_at": ends_at + TICK}  # the table has them differ
    return columns, base + draw(OFFSETS), draw(LATENESS)


class TestFollowed:
    @settings(deadline=None)
    @given(windows())
    @example(
        (
            {"cron": "* * * * *", "starts_at": utc("13:00"), "ends_at": utc("13:30:30")},
            NOW,
            timedelta(seconds=30),
        )
    )
    def test_exactly_the_occurrences_of_the_window_are_due(self, window):
        columns, since, late = window
        until = since + timedelta(hours=HOURS + 1)
        definition = row(**columns, created_at=since - timedelta(days=1), updated_at=since)
        schedule = build_for(definition)
        looks = list(follow(definition, since, until, late))
        begins = max(filter(None, (definition.starts_at, definition.paused_until)), default=since)
        ends = definition.ends_at or until

        due, at = [], since
        while schedule and (following := schedule.next_after(at)) and following <= until:
            at = following
            last_look = [wanted for when, wanted in looks if when < at][-1]
            if not last_look.spec.paused:
                due.append(at)
            assert (at in due) == (begins <= at <= ends), at
        assert len(looks) <= 3

    @settings(deadline=None)
    @given(windows(), st.lists(OFFSETS, min_size=1, max_size=8))
    def test_between_two_looks_nothing_changes(self, window, offsets):
        columns, since, _ = window
        definition = row(**columns, created_at=since - timedelta(days=1), updated_at=since)
        wanted = want(definition, RULES, since)

        for offset in offsets:
            at = since + offset
            if wanted.changes_at is None or at < wanted.changes_at:
                assert want(definition, RULES, at).spec == wanted.spec

    @settings(deadline=None)
    @given(windows())
    def test_the_next_run_is_the_first_that_comes_true(self, window):
        columns, since, _ = window
        definition = row(**columns, created_at=since - timedelta(days=1), updated_at=since)
        schedule = build_for(definition)
        begins = max(filter(None, (definition.starts_at, definition.paused_until)), default=since)
        until = since + timedelta(hours=2 * HOURS)
        in_window = (
            at
            for at in (schedule.occurrences(since, 700) if schedule else [])
            if begins <= at <= min(definition.ends_at or until, until)
        )

        said = next_run(definition, schedule, (), since)
        assert (said if said and said <= until else None) == next(in_window, None)

    @settings(deadline=None, max_examples=20)
    @given(
        st.sampled_from([{"run_at": utc("13:00")}, {"cron": None}]),
        st.none() | st.integers(0, 60),
        st.integers(60, 180),
    )
    def test_one_date_and_on_demand_change_only_when_they_say_so(self, columns, starts, ends):
        columns |= {
            "starts_at": None if starts is None else NOW + timedelta(minutes=starts),
            "ends_at": NOW + timedelta(minutes=ends, seconds=1),
        }
        looks = list(follow(row(**columns), NOW, NOW + timedelta(hours=4), timedelta(seconds=1)))

        for minute in range(240):
            at = NOW + timedelta(minutes=minute, seconds=30)
            last_look = [wanted for when, wanted in looks if when < at][-1]
            near = min(abs(at - when) for when, _ in looks) <= timedelta(seconds=2)
            assert near or want(row(**columns), RULES, at).spec == last_look.spec


class TestSwitchedOff:
    @pytest.mark.parametrize("window", [{}, {"starts_at": utc("11:00")}, {"ends_at": utc("15:00")}])
    def test_disabled(self, window):
        wanted = want(row(enabled=False, **window), RULES, NOW)

        assert wanted.spec.paused
        assert wanted.spec.schedules
        assert wanted.next_run_at is None

    def test_suspended_tenant(self):
        rules = dataclasses.replace(RULES, suspended={"acme"})

        stopped = want(row(), rules, NOW)
        assert stopped.spec.paused
        assert stopped.next_run_at is None
        other = want(row(tenant="globex"), rules, NOW)
        assert not other.spec.paused
        assert other.next_run_at == utc("13:00")

    def test_what_is_switched_off_is_checked_all_the_same(self):
        assert problem(enabled=False, cron="never").startswith("cron: ")


class TestInputs:
    RULES = dataclasses.replace(
        RULES,
        duties={
            "start": Duty(
                "start",
                "start",
                None,
                {"type": "object", "properties": {"id": {}, "input": {"type": "object"}}},
            ),
            "report": REPORT,
        },
    )

    def test_their_defaults_are_parameters_of_every_run(self):
        inputs = [
            {"name": "branch", "default": "main"},
            {"name": "who", "required": True},
            {"name": "size", "default": "m"},
        ]
        definition = row(
            duty="start", parameters={"id": "x", "input": {"size": "l", "n": 1}}, inputs=inputs
        )

        spec = want(definition, self.RULES, NOW).spec

        assert spec.parameters == {"id": "x", "input": {"branch": "main", "size": "l", "n": 1}}
        assert definition.parameters == {"id": "x", "input": {"size": "l", "n": 1}}

    def test_another_default_is_another_deployment(self):
        def fingerprint(default: str) -> str:
            inputs = [{"name": "branch", "default": default}]
            definition = row(duty="start", parameters={}, inputs=inputs)
            return want(definition, self.RULES, NOW).spec.fingerprint

        assert fingerprint("main") != fingerprint("next")

    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            (
                {"inputs": [{"name": "branch"}]},
                "inputs: report has no parameter `input` for them to go into; remove them, or name "
                "another duty",
            ),
            (
                {"duty": "start", "parameters": {}, "inputs": [5]},
                "inputs.0: it is no object; begin with its name",
            ),
            (
                {"duty": "start", "parameters": {}, "inputs": [{"name": "a", "regex": "("}]},
                "inputs.a.regex: '(' is no pattern of RE2",
            ),
            (
                {
                    "duty": "start",
                    "parameters": {"input": {"a": 5}},
                    "inputs": [{"name": "a"}],
                },
                "parameters.input.a: 5 is no text; write it in quotes",
            ),
        ],
    )
    def test_those_that_cannot_be_are_a_problem(self, columns, expected):
        assert problem(rules=self.RULES, **columns).startswith(expected)


class TestNextRun:
    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            ({}, utc("13:00")),
            ({"cron": "0 12 * * *"}, utc("2026-03-02 12:00")),  # due now is not due next
            ({"starts_at": utc("13:00")}, utc("13:00")),
            ({"starts_at": utc("13:00:00.000001")}, utc("14:00")),
            ({"paused_until": utc("15:30")}, utc("16:00")),
            ({"ends_at": utc("13:00")}, utc("13:00")),
            ({"ends_at": utc("12:59:59")}, None),
            ({"ends_at": utc("11:00")}, None),
            ({"cron": None}, None),
            ({"enabled": False}, None),
            ({"run_at": utc("13:00")}, utc("13:00")),
            ({"run_at": utc("12:00")}, None),
            ({"cron": "0 14 * * *", "timezone": "Europe/Berlin"}, utc("13:00")),
        ],
    )
    def test_next_run(self, columns, expected):
        definition = row(**columns)

        assert next_run(definition, build_for(definition), (), NOW) == expected
        assert want(definition, RULES, NOW).next_run_at == expected


# -- so long after a run


def after(**columns: Any) -> Definition:
    return row(**{"after_seconds": 90, "after_at": utc("12:00:00.5"), **columns})


@pytest.mark.parametrize(
    ("columns", "due"),
    [
        ({}, utc("12:01:31")),
        ({"after_at": utc("12:00")}, utc("12:01:30")),
        ({"starts_at": utc("12:00:30")}, utc("12:01:31")),
        ({"starts_at": utc("12:05:00.25")}, utc("12:05:01")),
        ({"paused_until": utc("12:10")}, utc("12:10")),
        ({"ends_at": utc("12:01")}, None),
        ({"ends_at": utc("12:02")}, utc("12:01:31")),
        ({"enabled": False}, None),
        ({"paused_until": datetime.max.replace(tzinfo=UTC)}, None),
        ({"after_at": None}, None),
        ({"after_at": NEVER}, None),
    ],
)
def test_it_is_due_so_long_after_what_it_counts_from(columns: Any, due: datetime | None):
    assert want(after(**columns), RULES, NOW).next_run_at == due


def test_what_has_run_leaves_no_schedule_and_its_deployment_active():
    spec = want(after(after_at=None), RULES, NOW).spec
    assert (spec.schedules, spec.paused) == ((), False)


def test_one_that_nobody_could_apply_in_time_is_run_late():
    late = after(after_at=utc("11:00"))
    assert missed_once(late, build_for(late)) == utc("11:01:30")


def test_what_it_counts_from_may_have_passed_when_the_row_was_changed():
    late = after(after_at=utc("11:00"), updated_at=utc("11:30"))
    assert want(late, RULES, NOW).schedule == Once(utc("11:01:30"))


# -- blocks of tenants


ANY = {"properties": {"service": {}, "notify": {}}}
SHARED = {"report": dataclasses.replace(REPORT, schema=ANY)}


@pytest.mark.parametrize(
    ("field", "columns"),
    [
        ("notify.1", {"notify": ["slack-webhook/acme--ops", "slack-webhook/globex--ops"]}),
        ("parameters.service", {"parameters": {"service": "globex--main"}}),
        ("parameters.service", {"parameters": {"service": "other-vps/globex--main"}}),
        ("parameters.notify.0", {"parameters": {"notify": ["slack-webhook/globex--ops"]}}),
        ("parameters.service", {"parameters": {"service": "acme-2--main"}}),
    ],
)
def test_a_block_of_another_tenants_may_not_be_named(field, columns):
    rules = dataclasses.replace(RULES, duties=SHARED)

    with pytest.raises(Problem, match=f"^{field}: .* is a block of another tenant's; name one of"):
        want(row(**{"parameters": {}, **columns}), rules, NOW)


def test_a_block_of_its_own_or_one_for_all_may_be_named():
    rules = dataclasses.replace(RULES, duties=SHARED)
    notify = ["slack-webhook/acme--ops-2", "slack-webhook/ops-2"]

    want(row(notify=notify, parameters={"service": "acme--main"}), rules, NOW)
    want(row(notify=notify, parameters={"service": "default", "notify": notify}), rules, NOW)
