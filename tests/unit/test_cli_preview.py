"""`rota preview`, and what changes of clocks do to a schedule."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from deployments.clock_changes import clock_changes, warnings
from deployments.schedule import Cron
from scripts.preview import preview
from scripts.session import Refused

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_clocks_change_twice_a_year_in_berlin():
    spring, autumn = clock_changes(ZoneInfo(BERLIN), utc("2026-01-01"), utc("2027-01-01"))
    assert (spring.at, spring.forward) == (utc("2026-03-29T01:00"), True)
    assert (autumn.at, autumn.forward) == (utc("2026-10-25T01:00"), False)
    assert [f"{one:%H:%M}" for one in autumn.window] == ["02:00", "03:00"]


def test_clocks_never_change_in_utc():
    assert list(clock_changes(ZoneInfo("UTC"), utc("1990-01-01"), utc("2027-01-01"))) == []


def test_a_change_at_the_last_instant_counts():
    at = utc("2026-03-29T01:00")
    assert [one.at for one in clock_changes(ZoneInfo(BERLIN), utc("2026-03-28"), at)] == [at]


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        (
            "30 2 * * *",
            [
                "Europe/Berlin: on 2026-03-29 02:30 does not exist (clocks go forward); it is due "
                "60 minutes later, and Prefect 3.8 may start it as much too early",
                "Europe/Berlin: on 2026-10-25 02:30 comes twice (clocks go back); it runs the "
                "first time only",
            ],
        ),
        (
            "*/15 * * * *",
            [
                "Europe/Berlin: on 2026-03-29 4 times from 02:00 to 02:45 do not exist (clocks go "
                "forward); they are due 60 minutes later, and Prefect 3.8 may start them as much "
                "too early",
                "Europe/Berlin: on 2026-10-25 4 times from 02:00 to 02:45 come twice (clocks go "
                "back); they run the first time only",
            ],
        ),
        ("0 3 * * *", []),
        ("30 2 1 * *", []),
    ],
)
def test_times_that_are_skipped_or_come_twice_are_said(cron: str, expected: list[str]):
    assert warnings(Cron(cron, BERLIN), utc("2026-01-01"), utc("2027-01-01")) == expected


def test_dates_are_printed_in_the_zone_and_in_utc(capsys: pytest.CaptureFixture[str]):
    assert preview("30 2 * * *", BERLIN, 2, "2026-03-28T00:00:00Z", False, False) == 0
    said = capsys.readouterr()
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert lines[2:] == [
        "Sat 2026-03-28 02:30:00 CET Sat 2026-03-28 01:30:00 UTC",
        "Sun 2026-03-29 03:30:00 CEST Sun 2026-03-29 01:30:00 UTC",
    ]
    assert "02:30 does not exist" in said.err


def test_json_is_alone_on_standard_output(capsys: pytest.CaptureFixture[str]):
    preview("@daily", BERLIN, 1, "2026-03-28T00:00:00Z", False, True)
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "cron": "@daily",
        "timezone": BERLIN,
        "occurrences": [{"local": "2026-03-29T00:00:00+01:00", "utc": "2026-03-28T23:00:00Z"}],
        "warnings": [],
    }
    assert said.err == ""


def test_an_instant_without_a_zone_is_refused():
    with pytest.raises(Refused, match="'2026-01-01' is no date and time with an offset from UTC"):
        preview("@daily", "UTC", 1, "2026-01-01", False, False)


def rota(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.rota", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        check=False,
    )


def test_a_bad_expression_is_one_sentence():
    done = rota("preview", "* * *")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "cron: '* * *' has 3 fields; write five: minute, hour, day of month, month, day of week.\n"
    )


@pytest.mark.wall_clock
def test_help_needs_neither_prefect_nor_the_database():
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\nfrom scripts.rota import app\n"
            "try: app(['--help'])\n"
            "finally: assert not {'prefect', 'sqlalchemy', 'pydantic'} & set(sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "doctor" in done.stdout
    assert time.monotonic() - began < 5  # 0.25 s on an idle machine


def test_every_policy_can_be_named():
    from typing import get_args

    from deployments.policy import POLICIES
    from scripts.rota import PolicyName

    literal, _ = get_args(PolicyName)
    assert set(get_args(literal)) == set(POLICIES)
