"""Pausing a definition, resuming it, and running it beside its schedule."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from deployments.gateway import Gateway


@pytest.fixture
async def nightly(api: Any, definitions: str, a_definition: Any, watch: Any) -> str:
    """Makes a definition that takes inputs, and its deployment; returns its path."""
    inputs = [
        {"name": "branch", "required": True, "default": "main", "regex": "^[a-z/-]+$"},
        {"name": "target", "options": ["test", "live"]},
        {"name": "ticket", "required": True},
        {"name": "note"},
    ]
    created = await api.post(definitions, json=a_definition(inputs=inputs))
    assert created.status_code == 201
    await watch.settle()
    return f"{definitions}/nightly"


@pytest.fixture
async def plain(api: Any, definitions: str, a_definition: Any, watch: Any) -> str:
    """Makes a definition without inputs, and its deployment; returns its path."""
    created = await api.post(definitions, json=a_definition("plain"))
    assert created.status_code == 201
    await watch.settle()
    return f"{definitions}/plain"


def _in(**delta: float) -> datetime:
    return (datetime.now(UTC) + timedelta(**delta)).replace(microsecond=0)


# -- pausing


async def test_a_definition_is_paused_with_a_note_and_resumed(
    api: Any, plain: str, watch: Any, acme: str, gateway: Gateway
) -> None:
    paused = await api.post(f"{plain}/pause", "editor", json={"note": "The provider is down."})
    assert paused.status_code == 200
    found = paused.json()
    assert (found["state"], found["enabled"]) == ("paused", False)
    assert found["pause_note"] == "The provider is down."
    assert paused.headers["ETag"] != (await api.get(plain)).headers.get("X")
    await watch.settle()
    [made] = await gateway.named([f"{acme}.plain"])
    assert made["paused"] is True
    resumed = (await api.post(f"{plain}/resume", "editor")).json()
    assert (resumed["state"], resumed["enabled"]) == ("active", True)
    assert (resumed["pause_note"], resumed["paused_until"]) == (None, None)
    await watch.settle()
    [made] = await gateway.named([f"{acme}.plain"])
    assert made["paused"] is False


async def test_a_definition_is_paused_until_an_instant(api: Any, plain: str) -> None:
    until = _in(hours=2)
    found = (await api.post(f"{plain}/pause", json={"until": until.isoformat()})).json()
    assert (found["state"], found["enabled"]) == ("paused", True)
    assert datetime.fromisoformat(found["paused_until"]) == until
    found = (await api.post(f"{plain}/resume")).json()
    assert (found["state"], found["paused_until"]) == ("active", None)


async def test_a_pause_that_is_over_already_is_refused(api: Any, plain: str) -> None:
    answer = await api.post(f"{plain}/pause", json={"until": "2026-01-01T00:00:00Z"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "until"
    assert (await api.get(plain)).json()["state"] == "active"


async def test_pausing_and_resuming_twice_does_no_harm(api: Any, plain: str) -> None:
    for _ in range(2):
        assert (await api.post(f"{plain}/pause", json={})).json()["state"] == "paused"
    for _ in range(2):
        assert (await api.post(f"{plain}/resume")).json()["state"] == "active"


async def test_nothing_is_resumed_while_its_tenant_is_suspended(
    api: Any, acme: str, plain: str
) -> None:
    await api.post(f"/tenants/{acme}/suspend", json={})
    assert (await api.post(f"{plain}/pause", json={"note": "Mine"})).status_code == 200
    answer = await api.post(f"{plain}/resume")
    assert answer.status_code == 409
    assert answer.json()["detail"] == f"The tenant {acme} is suspended; nothing of it starts."
    await api.post(f"/tenants/{acme}/resume")
    found = (await api.get(plain)).json()
    assert (found["state"], found["pause_note"]) == ("paused", "Mine")


async def test_what_has_no_next_date_is_not_resumed(
    api: Any, acme: str, definitions: str, sql: asyncpg.Connection
) -> None:
    for name, columns, values, fields in (
        ("a", "cron", "'0 0 30 2 *'", ["cron"]),
        ("b", "cron", "'61 * * * *'", ["cron"]),
        ("c", "cron, ends_at", "'0 3 * * *', '2026-01-01 00:00Z'", []),
        ("d", "run_at", "'2026-01-01 00:00Z'", []),
    ):
        await sql.execute(
            f"insert into definitions (tenant, name, duty, enabled, {columns}) "
            f"values ($1, $2, 'workflow_run', false, {values})",
            acme,
            name,
        )
        answer = await api.post(f"{definitions}/{name}/resume")
        assert answer.status_code == 409, columns
        assert answer.json()["detail"].startswith("It cannot be resumed: ")
        assert [one["field"] for one in answer.json()["errors"]] == fields
        assert (await api.get(f"{definitions}/{name}")).json()["enabled"] is False


async def test_a_resume_lets_what_was_due_once_be_due_again_and_is_audited(
    api: Any, definitions: str, a_definition: Any, watch: Any, sql: asyncpg.Connection
) -> None:
    after = f"{definitions}/after"
    assert (await api.post(definitions, json=a_definition("after", after_seconds=60))).is_success
    await watch.settle()
    assert (await api.get(after)).json()["next_run_at"] is not None
    await sql.execute("update definitions set after_at = null")  # it has run
    await watch.settle()
    assert (await api.get(after)).json()["next_run_at"] is None

    assert (await api.post(f"{after}/resume", "editor")).is_success

    await watch.settle()
    assert (await api.get(after)).json()["next_run_at"] is not None
    latest = (await api.get("/audit")).json()["items"][0]
    assert (latest["operation"], latest["name"], latest["who"]) == ("update", "after", "editor")


async def test_what_runs_on_demand_only_is_resumed_all_the_same(
    api: Any, definitions: str, a_definition: Any
) -> None:
    await api.post(definitions, json=a_definition(cron=None, enabled=False))
    answer = await api.post(f"{definitions}/nightly/resume")
    assert (answer.status_code, answer.json()["enabled"]) == (200, True)


# -- running


async def test_a_run_is_made_at_once_and_says_where_to_look(
    api: Any, acme: str, plain: str, gateway: Gateway
) -> None:
    before = datetime.now(UTC)
    answer = await api.post(f"{plain}/run", "editor", json={})
    assert answer.status_code == 202
    asked = answer.json()
    assert asked["definition"] == f"{acme}/plain"
    assert asked["state"] == "Scheduled"
    assert before <= datetime.fromisoformat(asked["due"]) <= datetime.now(UTC)
    run = await gateway.run(asked["id"])
    assert run["name"] == asked["name"]
    assert run["parameters"] == {"workflow_id": "plain"}
    assert "rota.by:editor" in run["tags"]


async def test_a_run_s_parameters_count_more_than_the_definition_s(
    api: Any, plain: str, gateway: Gateway
) -> None:
    given = {"workflow_id": "other", "input": {"a": [1, None, 2.5]}}
    asked = (await api.post(f"{plain}/run", json={"parameters": given})).json()
    assert (await gateway.run(asked["id"]))["parameters"] == given
    asked = (await api.post(f"{plain}/run", json={"parameters": {"input": {}}})).json()
    made = (await gateway.run(asked["id"]))["parameters"]
    assert made == {"workflow_id": "plain", "input": {}}


async def test_a_run_is_made_for_an_instant(api: Any, plain: str, gateway: Gateway) -> None:
    at = _in(hours=3)
    asked = (await api.post(f"{plain}/run", json={"at": at.isoformat()})).json()
    assert datetime.fromisoformat(asked["due"]) == at
    run = await gateway.run(asked["id"])
    assert datetime.fromisoformat(run["expected_start_time"]) == at
    assert run["state_type"] == "SCHEDULED"


async def test_a_paused_definition_runs_and_a_suspended_tenant_s_does_not(
    api: Any, acme: str, plain: str, watch: Any
) -> None:
    await api.post(f"{plain}/pause", json={})
    await watch.settle()
    assert (await api.post(f"{plain}/run", json={})).status_code == 202
    await api.post(f"/tenants/{acme}/suspend", json={})
    answer = await api.post(f"{plain}/run", json={})
    assert answer.status_code == 409
    assert answer.json()["detail"] == f"The tenant {acme} is suspended; nothing of it starts."
    assert (await api.get(f"{plain}/runs")).json()["total"] == 1


async def test_a_definition_with_a_problem_does_not_run_and_says_why(
    api: Any, plain: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("update definitions set problem = 'duty: it is gone' where name = 'plain'")
    answer = await api.post(f"{plain}/run", json={})
    assert answer.status_code == 409
    assert answer.json()["detail"].endswith("has a problem: duty: it is gone")


async def test_what_is_over_by_its_schedule_runs_on_demand(
    api: Any, plain: str, watch: Any
) -> None:
    await api.patch(plain, json={"ends_at": "2026-01-01T00:00:00Z"})
    await watch.settle()
    assert (await api.post(f"{plain}/run", json={})).status_code == 202


UNFIT: tuple[tuple[dict[str, Any], str], ...] = (
    ({"workflow": "x"}, "parameters.workflow"),
    ({"workflow_id": 1}, "parameters.workflow_id"),
    ({"workflow_id": ""}, "parameters.workflow_id"),
    ({"deadline_seconds": -1}, "parameters.deadline_seconds"),
    ({"input": {"a": {"__prefect_kind": "jinja", "template": "{{ 1 }}"}}}, "parameters"),
    ({"workflow_id": {"__prefect_kind": "json", "value": "1"}}, "parameters"),
    ({"input": {"a": [{"$ref": {"block_document_id": "x"}}]}}, "parameters"),
)


async def test_parameters_that_do_not_fit_are_refused_and_make_no_run(api: Any, plain: str) -> None:
    for parameters, field in UNFIT:
        answer = await api.post(f"{plain}/run", json={"parameters": parameters})
        assert answer.status_code == 422, parameters
        assert [one["field"] for one in answer.json()["errors"]] == [field]
    assert (await api.get(f"{plain}/runs")).json()["total"] == 0


async def test_a_change_of_a_moment_ago_is_part_of_the_run(
    api: Any, plain: str, gateway: Gateway
) -> None:
    """`watch` has not carried it out yet."""
    await api.patch(plain, json={"parameters": {"workflow_id": "changed"}})
    asked = (await api.post(f"{plain}/run", json={})).json()
    assert (await gateway.run(asked["id"]))["parameters"] == {"workflow_id": "changed"}


# -- inputs


async def test_inputs_become_the_parameter_input_with_their_defaults(
    api: Any, nightly: str, gateway: Gateway
) -> None:
    for given, expected in (
        ({"ticket": "A-1"}, {"branch": "main", "ticket": "A-1"}),
        ({"ticket": " A-1 ", "branch": ""}, {"branch": "main", "ticket": "A-1"}),
        ({"ticket": "A-1", "note": None}, {"branch": "main", "ticket": "A-1"}),
        (
            {"ticket": "A-1", "branch": "next", "target": "live", "note": "\u00e9"},
            {"branch": "next", "target": "live", "ticket": "A-1", "note": "\u00e9"},
        ),
    ):
        answer = await api.post(f"{nightly}/run", json={"inputs": given})
        assert answer.status_code == 202, answer.text
        made = await gateway.run(answer.json()["id"])
        assert made["parameters"] == {"workflow_id": "nightly", "input": expected}


async def test_inputs_that_do_not_fit_are_named(api: Any, nightly: str) -> None:
    for given, expected in (
        ({}, "inputs.ticket: it is required; give a value"),
        ({"ticket": " "}, "inputs.ticket: it is required; give a value"),
        (
            {"ticket": "A-1", "branch": "Main"},
            "inputs.branch: 'Main' does not match ^[a-z/-]+$; give a value that does",
        ),
        (
            {"ticket": "A-1", "target": "prod"},
            "inputs.target: 'prod' is not among its options; give one of test, live",
        ),
        (
            {"ticket": "A-1", "tgt": "live"},
            "inputs.tgt: nothing of this name is declared; there are branch, target, ticket, note",
        ),
        (
            {"ticket": "\u00e9" * 2049},
            f"inputs.ticket: '{'é' * 59} is longer than 4,096 bytes as UTF-8; shorten it",
        ),
    ):
        answer = await api.post(f"{nightly}/run", json={"inputs": given})
        assert answer.status_code == 422, given
        assert answer.json()["detail"] == expected
        field, _, detail = expected.partition(": ")
        assert answer.json()["errors"] == [{"field": field, "detail": detail}]
    answer = await api.post(f"{nightly}/run", json={"inputs": {"ticket": 1}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "inputs.ticket"
    assert (await api.get(f"{nightly}/runs")).json()["total"] == 0


async def test_a_value_of_4096_bytes_is_taken(api: Any, nightly: str) -> None:
    answer = await api.post(f"{nightly}/run", json={"inputs": {"ticket": "\u00e9" * 2048}})
    assert answer.status_code == 202


async def test_inputs_of_what_declares_none_are_refused(api: Any, plain: str) -> None:
    for value in ("b", None):
        answer = await api.post(f"{plain}/run", json={"inputs": {"a": value}})
        assert answer.status_code == 422
        expected = "inputs.a: nothing of this name is declared; there are none"
        assert answer.json()["detail"] == expected


async def test_a_pattern_is_matched_in_bounded_time(
    api: Any, definitions: str, a_definition: Any, watch: Any
) -> None:
    inputs = [{"name": "evil", "regex": "^(a+)+$"}]
    await api.post(definitions, json=a_definition(inputs=inputs))
    await watch.settle()
    began = time.perf_counter()
    value = "a" * 4095 + "!"
    answer = await api.post(f"{definitions}/nightly/run", json={"inputs": {"evil": value}})
    assert answer.status_code == 422
    assert time.perf_counter() - began < 2  # by backtracking, longer than the universe is old


# -- one run for one key


async def test_one_key_makes_one_run(api: Any, plain: str) -> None:
    headers = {"Idempotency-Key": "4a1f"}
    body = {"parameters": {"workflow_id": "x"}}
    first = await api.post(f"{plain}/run", json=body, headers=headers)
    again = await api.post(f"{plain}/run", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    other = await api.post(f"{plain}/run", json=body, headers={"Idempotency-Key": "4a1g"})
    assert other.json()["id"] != first.json()["id"]
    assert (await api.get(f"{plain}/runs")).json()["total"] == 2


async def test_one_key_makes_one_run_though_it_comes_many_times_at_once(
    api: Any, plain: str
) -> None:
    await api.token("admin")
    headers = {"Idempotency-Key": "4a1f"}
    answers = await asyncio.gather(
        *(api.post(f"{plain}/run", json={}, headers=headers) for _ in range(4))
    )
    assert {one.status_code for one in answers} == {202}
    assert len({one.json()["id"] for one in answers}) == 1
    assert (await api.get(f"{plain}/runs")).json()["total"] == 1


async def test_a_key_that_was_used_for_another_run_is_refused(api: Any, plain: str) -> None:
    first = {"parameters": {"workflow_id": "x"}, "at": _in(hours=1).isoformat()}
    headers = {"Idempotency-Key": "4a1f"}
    made = await api.post(f"{plain}/run", json=first, headers=headers)
    assert made.status_code == 202
    for other in (
        {**first, "parameters": {"workflow_id": "y"}},
        {"at": first["at"]},
        {**first, "at": _in(hours=2).isoformat()},
        {"parameters": first["parameters"]},
    ):
        answer = await api.post(f"{plain}/run", json=other, headers=headers)
        assert answer.status_code == 422, other
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
    again = await api.post(f"{plain}/run", json=first, headers=headers)
    assert again.json()["id"] == made.json()["id"]


async def test_a_key_is_the_definition_s_own(
    api: Any, plain: str, definitions: str, a_definition: Any, watch: Any
) -> None:
    await api.post(definitions, json=a_definition("other"))
    await watch.settle()
    headers = {"Idempotency-Key": "4a1f"}
    ids = {
        (await api.post(f"{path}/run", json={}, headers=headers)).json()["id"]
        for path in (plain, f"{definitions}/other")
    }
    assert len(ids) == 2


async def test_a_key_that_is_empty_or_endless_is_refused(api: Any, plain: str) -> None:
    for key in ("", "x" * 256):
        answer = await api.post(f"{plain}/run", json={}, headers={"Idempotency-Key": key})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_a_retry_finds_its_run_though_the_definition_has_changed(
    api: Any, plain: str, watch: Any
) -> None:
    key = {"Idempotency-Key": "k1"}
    first = await api.post(f"{plain}/run", json={}, headers=key)
    changed = await api.patch(plain, json={"parameters": {"workflow_id": "other"}})
    assert changed.status_code == 200
    await watch.settle()
    again = await api.post(f"{plain}/run", json={}, headers=key)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
