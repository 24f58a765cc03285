"""When something is due: of a definition, and of a schedule that is not saved yet."""

import time
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from api import previews
from deployments.schedule import build

SINCE = "2026-03-27T12:00:00Z"


async def _preview(api: Any, **body: Any) -> dict[str, Any]:
    answer = await api.post("/preview", "worker", json={"since": SINCE, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_cron_is_told_in_words_with_its_next_dates_in_the_zone_and_in_utc(api: Any) -> None:
    found = await _preview(api, cron="30 3 * * *", timezone="Europe/Berlin", count=3)
    assert found == {
        "words": "At 03:30",
        "timezone": "Europe/Berlin",
        "occurrences": [
            {"local": "2026-03-28T03:30:00+01:00", "utc": "2026-03-28T02:30:00Z"},
            {"local": "2026-03-29T03:30:00+02:00", "utc": "2026-03-29T01:30:00Z"},
            {"local": "2026-03-30T03:30:00+02:00", "utc": "2026-03-30T01:30:00Z"},
        ],
        "warnings": [],
    }


async def test_crons_are_told_in_words(api: Any) -> None:
    for cron, words in (
        ("*/5 * * * *", "Every 5 minutes"),
        ("0 9 * * MON-FRI", "At 09:00, Monday through Friday"),
        ("@daily", "At 00:00"),
        ("0 0 1 JAN *", "At 00:00, on day 1 of the month, only in January"),
    ):
        assert (await _preview(api, cron=cron))["words"] == words


async def test_intervals_and_single_dates_are_told_too(api: Any) -> None:
    every = await _preview(api, interval_seconds=3600, anchor_at="2026-01-01T00:30:00Z", count=2)
    assert every["words"] == "Every 3600 seconds"
    assert [one["utc"] for one in every["occurrences"]] == [
        "2026-03-27T12:30:00Z",
        "2026-03-27T13:30:00Z",
    ]
    once = await _preview(api, run_at="2026-03-28T00:00:00+01:00", timezone="Asia/Tokyo")
    assert once["words"] == "Once"
    assert once["occurrences"] == [
        {"local": "2026-03-28T08:00:00+09:00", "utc": "2026-03-27T23:00:00Z"}
    ]
    after = await _preview(api, after_seconds=90, since="2026-03-27T23:00:00Z")
    assert [one["utc"] for one in after["occurrences"]] == ["2026-03-27T23:01:30Z"]
    never = await _preview(api)
    assert (never["words"], never["occurrences"], never["warnings"]) == (None, [], [])


async def test_without_an_instant_the_dates_are_from_now_on(api: Any) -> None:
    answer = await api.post("/preview", json={"cron": "* * * * *", "count": 1})
    [one] = answer.json()["occurrences"]
    ahead = datetime.fromisoformat(one["utc"]) - datetime.now().astimezone()
    assert timedelta(seconds=-5) < ahead <= timedelta(minutes=1)


# -- warnings


async def test_a_date_that_never_comes_is_warned_of(api: Any) -> None:
    for body in ({"cron": "0 0 30 2 *"}, {"cron": "0 0 31 4,6 *", "timezone": "Europe/Berlin"}):
        found = await _preview(api, **body)
        assert found["occurrences"] == []
        [warning] = found["warnings"]
        assert warning.startswith("It never comes: ")
    found = await _preview(api, run_at="2026-01-01T00:00:00Z")
    assert found["warnings"] == ["It never comes: the date has passed."]


async def test_a_time_that_a_change_of_clocks_skips_or_repeats_is_warned_of(api: Any) -> None:
    found = await _preview(api, cron="30 2 * * *", timezone="Europe/Berlin", count=3)
    assert [one["local"] for one in found["occurrences"]][1] == "2026-03-29T03:30:00+02:00"
    [warning] = found["warnings"]
    assert warning.startswith("Europe/Berlin: on 2026-03-29 02:30 does not exist")
    found = await _preview(
        api, cron="30 2 * * *", timezone="Europe/Berlin", since="2026-10-24T12:00:00Z"
    )
    [warning] = found["warnings"]
    assert "comes twice" in warning
    assert (await _preview(api, cron="30 2 * * *"))["warnings"] == []


async def test_two_day_fields_joined_by_or_are_warned_of(api: Any) -> None:
    found = await _preview(api, cron="0 0 13 * FRI")
    [warning] = found["warnings"]
    assert "day 13 of the month" in warning
    assert "weekday FRI" in warning
    assert "OR" in warning
    both = await _preview(api, cron="0 0 13 * FRI", day_and=True, count=1)
    assert both["warnings"] == []
    assert both["occurrences"][0]["utc"] == "2026-11-13T00:00:00Z"
    for harmless in ("0 0 13 * *", "0 0 * * FRI", "@monthly"):
        assert (await _preview(api, cron=harmless))["warnings"] == []


# -- what does not fit


UNFIT: tuple[tuple[dict[str, Any], str], ...] = (
    ({"cron": "61 * * * *"}, "cron"),
    ({"cron": "* * * * * *"}, "cron"),
    ({"cron": "nonsense"}, "cron"),
    ({"cron": "* * * * *", "timezone": "Berlin"}, "timezone"),
    ({"cron": "* * * * *", "timezone": "../../etc/passwd"}, "timezone"),
    ({"interval_seconds": 59}, "interval_seconds"),
    ({"interval_seconds": 10**30}, "interval_seconds"),
    ({"cron": "* * * * *", "interval_seconds": 60}, "cron"),
    ({"anchor_at": SINCE}, "anchor_at"),
    ({"cron": "* * * * *", "count": 0}, "count"),
    ({"cron": "* * * * *", "count": 101}, "count"),
    ({"cron": "* * * * *", "since": "now"}, "since"),
    ({"corn": "* * * * *"}, "corn"),
)


async def test_what_does_not_fit_is_named(api: Any) -> None:
    for body, field in UNFIT:
        answer = await api.post("/preview", json=body)
        assert answer.status_code == 422, body
        assert [one["field"] for one in answer.json()["errors"]] == [field]


LONG: tuple[dict[str, Any], ...] = (
    {"cron": "0 0 29 2 *"},
    {"cron": "0 2 29 2 MON", "day_and": True, "timezone": "Europe/Berlin"},
    {"cron": "* 2 * * *", "timezone": "Europe/Berlin"},
    {"cron": "0 0 1 1 *", "since": "8990-01-01T00:00:00Z", "timezone": "America/New_York"},
    {"interval_seconds": 10 * 365 * 86_400},
)


async def test_no_schedule_takes_long_to_preview(api: Any) -> None:
    """Whoever waits for the answer is not alone: the API has one thread for all."""
    for body in LONG:
        began = time.process_time()
        await _preview(api, **body, count=previews.MOST)
        assert time.process_time() - began < 1, body


# -- of a definition


async def test_a_definition_is_previewed_as_it_stands(
    api: Any, acme: str, definitions: str, a_definition: Any
) -> None:
    body = a_definition(cron="0 0 13 * FRI", timezone="Europe/Berlin")
    await api.post(definitions, json=body)
    path = f"{definitions}/nightly/preview"
    found = (await api.get(path, "viewer", params={"count": 2})).json()
    schedule = build(
        cron="0 0 13 * FRI", timezone="Europe/Berlin", created_at=datetime.now().astimezone()
    )
    assert schedule is not None
    expected = schedule.occurrences(datetime.now().astimezone(), 2)
    assert [datetime.fromisoformat(one["utc"]) for one in found["occurrences"]] == expected
    assert found["timezone"] == "Europe/Berlin"
    assert "OR" in found["warnings"][0]
    for method, where in (
        ("POST", f"{definitions}/nightly/pause"),
        ("POST", f"/tenants/{acme}/suspend"),
    ):
        await api.call(method, where, json={})
        assert (await api.get(path)).json()["occurrences"] == []
        await api.call("POST", where.replace("pause", "resume").replace("suspend", "resume"))
    assert len((await api.get(path)).json()["occurrences"]) == 5


async def test_a_definition_s_own_limits_of_time_count(
    api: Any, definitions: str, a_definition: Any
) -> None:
    await api.post(
        definitions,
        json=a_definition(
            cron="0 0 * * *", starts_at="2030-01-01T00:00:00Z", ends_at="2030-01-03T00:00:00Z"
        ),
    )
    found = (await api.get(f"{definitions}/nightly/preview")).json()
    assert [one["utc"] for one in found["occurrences"]] == [
        "2030-01-01T00:00:00Z",
        "2030-01-02T00:00:00Z",
        "2030-01-03T00:00:00Z",
    ]


async def test_a_definition_on_demand_is_never_due(
    api: Any, definitions: str, a_definition: Any
) -> None:
    await api.post(definitions, json=a_definition(cron=None))
    found = (await api.get(f"{definitions}/nightly/preview")).json()
    assert (found["words"], found["occurrences"], found["warnings"]) == (None, [], [])


async def test_a_definition_whose_schedule_is_bad_says_so(
    api: Any, acme: str, definitions: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "insert into definitions (tenant, name, duty, cron, timezone) values "
        "($1, 'bad', 'workflow_run', '61 * * * *', 'Nowhere/At_all')",
        acme,
    )
    answer = await api.get(f"{definitions}/bad/preview")
    assert answer.status_code == 200
    assert answer.json()["occurrences"] == []
    assert len(answer.json()["warnings"]) == 1


async def test_as_many_dates_are_told_as_are_asked_for(
    api: Any, definitions: str, a_definition: Any
) -> None:
    await api.post(definitions, json=a_definition())
    path = f"{definitions}/nightly/preview"
    for count, expected in ((1, 1), (100, 100)):
        found = (await api.get(path, params={"count": count})).json()
        assert len(found["occurrences"]) == expected
    for count in (0, 101, "x"):
        assert (await api.get(path, params={"count": count})).status_code == 422
