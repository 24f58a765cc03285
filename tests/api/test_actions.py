"""Actions, step templates, what runs have done, and which addresses they may call."""

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

RUN = "3f9c2a1b-0d4e-4b6a-9f00-3a5c1d2e4f60"


def a_step(name: str = "hello", *following: str, **fields: Any) -> dict[str, Any]:
    made = {"kind": "log", "input": {"text": "Hello"}, **fields}
    if "template" in fields:
        del made["kind"]
    return {"name": name, **made, "next": [{"step": one} for one in following]}


@pytest.fixture
def path(acme: str) -> str:
    return f"/tenants/{acme}/actions"


@pytest.fixture
def templates(acme: str) -> str:
    return f"/tenants/{acme}/step-templates"


async def _put(api: Any, where: str, *steps: Any, **headers: Any) -> Any:
    return await api.put(where, json={"steps": list(steps)}, headers=headers)


# -- actions


async def test_an_action_is_written_read_and_deleted(api: Any, path: str) -> None:
    body = {"name": "hi", "title": "Greets", "steps": [a_step("a", "b"), a_step("b")]}

    made = await api.post(path, "editor", json=body)

    assert made.status_code == 201
    assert made.headers["Location"].endswith(f"{path}/hi")
    document = made.json()
    assert {key: document[key] for key in body} == body
    assert document["revision"] == 1
    read = await api.get(f"{path}/hi", "viewer")
    assert (read.json(), read.headers["ETag"]) == (document, made.headers["ETag"])
    assert [one["name"] for one in (await api.get(path, "viewer")).json()["items"]] == ["hi"]
    assert (await api.get(path, params={"q": "H"})).json()["total"] == 1
    assert (await api.get(path, params={"q": "x"})).json()["total"] == 0
    assert (await api.delete(f"{path}/hi", "editor")).status_code == 204
    assert (await api.get(f"{path}/hi")).status_code == 404


async def test_a_name_that_is_taken_is_refused_and_a_put_replaces(api: Any, path: str) -> None:
    assert (await _put(api, f"{path}/hi", a_step())).status_code == 201
    assert (await api.post(path, json={"name": "hi", "steps": [a_step()]})).status_code == 409

    again = await _put(api, f"{path}/hi", a_step("other"))

    assert (again.status_code, again.json()["revision"]) == (200, 2)
    assert (await _put(api, f"{path}/hi", a_step("other"))).json()["revision"] == 2  # the same


async def test_an_etag_tells_whether_somebody_else_has_written(api: Any, path: str) -> None:
    first = (await _put(api, f"{path}/hi", a_step())).headers["ETag"]
    second = (await _put(api, f"{path}/hi", a_step("b"), **{"If-Match": first})).headers["ETag"]

    stale = {"If-Match": first}
    assert (await _put(api, f"{path}/hi", a_step("c"), **stale)).status_code == 412
    assert (await api.delete(f"{path}/hi", headers=stale)).status_code == 412
    assert (await _put(api, f"{path}/hi", a_step(), **{"If-None-Match": "*"})).status_code == 412
    assert (await _put(api, f"{path}/new", a_step(), **{"If-Match": "*"})).status_code == 412
    assert (await api.delete(f"{path}/hi", headers={"If-Match": second})).status_code == 204


async def test_what_cannot_be_run_is_refused_with_each_field(api: Any, path: str) -> None:
    url = {"url": "ftp://example.com"}
    answer = await _put(
        api, f"{path}/hi", a_step("a", kind="http", input=url), a_step("b", input={})
    )

    assert answer.status_code == 422
    fields = [one["field"] for one in answer.json()["errors"]]
    assert fields == ["steps", "steps.0.input.url", "steps.1.input.text"]
    assert (await _put(api, f"{path}/hi")).status_code == 422  # no steps
    many = [a_step(f"s{number}") for number in range(101)]
    assert (await _put(api, f"{path}/hi", *many)).status_code == 422


async def test_what_the_database_cannot_hold_is_refused(api: Any, path: str) -> None:
    for text in ("a\0b", "x" * 600_000):
        answer = await _put(api, f"{path}/hi", a_step(input={"text": text}))
        assert answer.status_code == 422, text[:10]
    halves = [a_step(f"s{n}", f"s{n + 1}", input={"text": "x" * 300_000}) for n in range(2)]
    assert (await _put(api, f"{path}/hi", *halves, a_step("s2"))).status_code == 422
    assert (await _put(api, f"{path}/Not-A-Slug", a_step())).status_code == 422


async def test_an_action_that_definitions_run_is_not_deleted(
    api: Any, path: str, definitions: str, a_definition: Any
) -> None:
    await _put(api, f"{path}/hi", a_step())
    runs = a_definition("greets", duty="run_action", parameters={"action": "hi"})
    assert (await api.post(definitions, json=runs)).status_code == 201

    answer = await api.delete(f"{path}/hi")

    assert answer.status_code == 409
    assert "is run by the definitions greets" in answer.json()["detail"]
    await api.delete(f"{definitions}/greets")
    assert (await api.delete(f"{path}/hi")).status_code == 204


async def test_the_examples_of_the_guide_are_taken(api: Any, acme: str, subtests: Any) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "actions.md").read_text()
    found = re.findall(r"curl -s -X (\w+) .*? \$API/tenants/acme/(\S+) -d '(.*?)'\n", guide, re.S)

    assert len(found) == 5
    for method, where, body in found:
        with subtests.test(f"{method} {where}"):
            answer = await api.call(method, f"/tenants/{acme}/{where}", json=json.loads(body))
            assert answer.status_code in (200, 201), answer.text


async def test_the_audit_tells_who_wrote_which_action(api: Any, acme: str, path: str) -> None:
    await _put(api, f"{path}/hi", a_step())
    await api.put(f"/tenants/{acme}/allowed-addresses", json={"addresses": ["10.0.0.1"]})

    found = (await api.get("/audit", params={"tenant": acme})).json()["items"]

    assert [(one["kind"], one["operation"], one["who"]) for one in found[:2]] == [
        ("setting", "insert", "admin"),
        ("action", "insert", "admin"),
    ]
    assert found[1]["after"]["steps"] == [a_step()]


# -- step templates


async def test_a_step_template_is_written_used_and_kept_while_it_is(
    api: Any, path: str, templates: str
) -> None:
    body = {"name": "greet", "kind": "log", "input": {"text": "Hello"}, "retries": 2}
    made = await api.post(templates, "editor", json=body)
    assert made.status_code == 201
    assert (await api.post(templates, json=body)).status_code == 409
    assert (await api.get(f"{templates}/greet", "viewer")).json() == made.json()
    assert (await api.get(templates, "viewer")).json()["total"] == 1
    assert (await _put(api, f"{path}/hi", a_step(template="greet", input={}))).status_code == 201

    refused = await api.delete(f"{templates}/greet")

    assert refused.status_code == 409
    assert "Steps of the actions hi are made from greet" in refused.json()["detail"]
    await api.delete(f"{path}/hi")
    assert (await api.delete(f"{templates}/greet")).status_code == 204


async def test_a_template_is_not_changed_so_that_an_action_could_not_be_run(
    api: Any, path: str, templates: str
) -> None:
    where = f"{templates}/greet"
    await api.put(where, json={"kind": "log", "input": {"text": "Hello"}})
    await _put(api, f"{path}/hi", a_step(template="greet", input={"level": "debug"}))

    answer = await api.put(where, json={"kind": "slack", "input": {"block": "a/b", "text": "x"}})

    assert answer.status_code == 422
    assert "the action hi could not be run any more: steps.0.input.level" in answer.text
    assert (await api.put(where, json={"kind": "log", "input": {"text": "Bye"}})).status_code == 200


async def test_a_template_may_leave_out_what_a_step_has_to_say(api: Any, templates: str) -> None:
    assert (await api.put(f"{templates}/call", json={"kind": "http"})).status_code == 201
    answer = await api.put(f"{templates}/call", json={"kind": "http", "input": {"uri": "x"}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "input.uri"
    assert (await api.put(f"{templates}/call", json={"kind": "ftp"})).status_code == 422


# -- runs


async def test_a_run_is_taken_up_again_with_what_it_has_completed(api: Any, path: str) -> None:
    await _put(api, f"{path}/hi", a_step("a", "b"), a_step("b"))
    run = f"{path}/hi/runs/{RUN}"

    begun = (await api.put(run, "worker")).json()
    assert (begun["first"], begun["done"], begun["allowed_addresses"]) == ("a", [], [])
    said = {"kind": "log", "status": "running"}
    assert (await api.put(f"{run}/steps/a", "worker", json=said)).json()["finished_at"] is None
    done = {"kind": "log", "status": "completed", "output": {"x": 1}, "next": "b"}
    first = (await api.put(f"{run}/steps/a", "worker", json=done)).json()
    failed = {"kind": "log", "status": "failed", "error": "Why"}
    await api.put(f"{run}/steps/b", "worker", json=failed)
    await _put(api, f"{path}/hi", a_step("a", "b"), a_step("b", input={"text": "Other"}))

    begun = (await api.put(run, "worker")).json()

    assert begun["revision"] == 2
    assert begun["done"] == [first]
    assert begun["steps"][1]["input"] == {"text": "Other"}
    shown = (await api.get(run, "viewer")).json()
    assert [(one["step"], one["status"]) for one in shown["steps"]] == [
        ("a", "completed"),
        ("b", "failed"),
    ]
    assert (await api.get(f"{path}/hi/runs", "viewer")).json()["total"] == 1


async def test_what_is_completed_stays_so(api: Any, path: str) -> None:
    await _put(api, f"{path}/hi", a_step())
    run = f"{path}/hi/runs/{RUN}"
    await api.put(run, "worker")
    done = {"kind": "log", "status": "completed", "output": 1}
    first = await api.put(f"{run}/steps/hello", "worker", json=done)

    again = await api.put(f"{run}/steps/hello", "worker", json={**done, "output": 2})
    late = await api.put(f"{run}/steps/hello", "worker", json={**done, "status": "running"})

    assert again.json() == first.json()
    assert late.status_code == 409


async def test_a_run_is_one_of_its_action_and_of_its_tenant(api: Any, path: str, sql: Any) -> None:
    for name in ("one", "two"):
        await _put(api, f"{path}/{name}", a_step())
    await api.put(f"{path}/one/runs/{RUN}", "worker")

    assert (await api.put(f"{path}/two/runs/{RUN}", "worker")).status_code == 409
    assert (await api.get(f"{path}/two/runs/{RUN}")).status_code == 404
    said = {"kind": "log", "status": "running"}
    there = await api.put(f"{path}/two/runs/{RUN}/steps/hello", "worker", json=said)
    assert there.status_code == 404
    other = f"other-{uuid4().hex[:8]}"
    await sql.execute("insert into tenants (slug) values ($1)", other)
    await _put(api, f"/tenants/{other}/actions/one", a_step())
    assert (await api.put(f"/tenants/{other}/actions/one/runs/{RUN}", "worker")).status_code == 200


async def test_a_run_has_room_for_so_much_and_no_more(api: Any, path: str) -> None:
    await _put(api, f"{path}/hi", a_step())
    run = f"{path}/hi/runs/{RUN}"
    await api.put(run, "worker")
    done = {"kind": "log", "status": "completed", "output": "x" * 500_000}

    answers = [await api.put(f"{run}/steps/s{number}", "worker", json=done) for number in range(17)]

    assert [one.status_code for one in answers] == [200] * 16 + [422]
    assert "more than 8 MiB together" in answers[-1].text
    assert len((await api.get(run)).json()["steps"]) == 16


# -- addresses


async def test_only_an_administrator_of_all_tenants_opens_the_network(api: Any, acme: str) -> None:
    where = f"/tenants/{acme}/allowed-addresses"
    body = {"addresses": ["10.1.0.0/16", "fd00::1", "Intranet.Example.com"]}
    for who in ("editor", f"admin@{acme}", "worker"):
        assert (await api.put(where, who, json=body)).status_code == 403

    answer = await api.put(where, json=body)

    known = ["10.1.0.0/16", "fd00::1/128", "intranet.example.com"]
    assert answer.json() == {"addresses": known}
    assert (await api.get(where, "viewer")).json() == {"addresses": known}


@pytest.mark.parametrize("value", ['"10.0.0.1"', "[1]", '["a b"]', '[""]', "null", "{}"])
async def test_by_sql_the_list_of_addresses_is_one_too(acme: str, sql: Any, value: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="allowed_addresses: a list"):
        await sql.execute(
            "insert into settings (tenant, key, value) values "
            f"($1, 'allowed_addresses', '{value}')",
            acme,
        )


async def test_a_list_that_was_written_by_sql_is_read(api: Any, acme: str, sql: Any) -> None:
    await sql.execute(
        "insert into settings (tenant, key, value) values "
        "($1, 'allowed_addresses', '[\"10.0.0.0/8\", \"fd00::1\"]')",
        acme,
    )

    found = await api.get(f"/tenants/{acme}/allowed-addresses", "viewer")

    assert found.json() == {"addresses": ["10.0.0.0/8", "fd00::1"]}


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "300.1.1.1", "http://a", "a b", "", "-a", "*"])
async def test_what_is_no_address_is_not_allowed(api: Any, acme: str, entry: str) -> None:
    where = f"/tenants/{acme}/allowed-addresses"
    assert (await api.put(where, json={"addresses": [entry]})).status_code == 422


# -- blocks of tenants


async def test_the_blocks_of_another_tenant_are_refused_wherever_they_are_named(
    api: Any, path: str, templates: str, acme: str, sql: asyncpg.Connection
) -> None:
    globex = f"{acme}-2"
    await sql.execute("insert into tenants (slug) values ($1)", globex)
    tell = {"kind": "slack", "input": {"block": f"slack-webhook/{globex}--ops", "text": "Hello"}}
    start = {"kind": "workflow", "input": {"service": f"{globex}--main", "workflow_id": "wf"}}
    notify = [f"slack-webhook/{globex}--ops"]
    due = {"name": "due", "duty": "workflow_run", "parameters": {"workflow_id": "wf"}}

    refused = [
        await _put(api, f"{path}/tell", a_step("tell", **tell)),
        await _put(api, f"{path}/start", a_step("start", **start)),
        await api.put(f"{templates}/tell", json=tell),
        await api.post(f"/tenants/{acme}/definitions", json={**due, "notify": notify}),
        await api.post(
            f"/tenants/{acme}/definitions",
            json={**due, "parameters": {"workflow_id": "wf", "service": f"{globex}--main"}},
        ),
    ]

    fields = [one.json()["errors"][0]["field"] for one in refused]
    assert [one.status_code for one in refused] == [422] * 5
    assert fields == [
        "steps.0.input.block",
        "steps.0.input.service",
        "input.block",
        "notify.0",
        "parameters.service",
    ]
    assert "is a block of another tenant's; name one of" in refused[3].json()["detail"]
    own = {**due, "notify": notify}
    made = await api.post(f"/tenants/{globex}/definitions", json=own)
    assert made.status_code == 201, made.text
