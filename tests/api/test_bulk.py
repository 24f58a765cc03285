"""All definitions of a tenant at once: all of them are written, or none."""

import asyncio
from collections import Counter
from typing import Any

import asyncpg
import pytest
import yaml

NOTHING: dict[str, list[str]] = {"created": [], "updated": [], "unchanged": [], "deleted": []}

SEMAPHORE = """\
apiVersion: v1.0
kind: Schedule
metadata: {name: P1}
spec: {project: web, branch: master, at: 0 0 * * * *, pipeline_file: .semaphore/cron.yml}
---
apiVersion: v1.1
kind: Schedule
metadata: {name: Nightly build}
spec:
  project: web
  recurring: true
  branch: main
  at: 30 2 * * MON-FRI
  pipeline_file: .semaphore/nightly.yml
  parameters:
    - {name: TARGET, required: true, default_value: all, options: [all, api]}
---
apiVersion: v1.2
kind: Schedule
metadata: {name: By hand}
spec: {project: web, recurring: false, reference: {type: TAG, name: v1}}
---
definitions:
  - {name: own, duty: workflow_run, parameters: {workflow_id: x}}
"""


async def _put(api: Any, path: str, *entries: Any, who: str = "editor", **query: Any) -> Any:
    return await api.put(path, who, json={"definitions": list(entries)}, params=query)


async def _names(api: Any, path: str) -> list[str]:
    return [one["name"] for one in (await api.get(path)).json()["items"]]


@pytest.fixture
async def three(
    api: Any, definitions: str, a_definition: Any, sql: asyncpg.Connection
) -> list[dict[str, Any]]:
    """Makes three definitions; returns them as they were written. The audit has forgotten them."""
    entries = [a_definition(name) for name in ("a", "b", "c")]
    answer = await _put(api, definitions, *entries)
    assert answer.json() == {**NOTHING, "created": ["a", "b", "c"]}
    await sql.execute("delete from audit")
    return entries


# -- what is written


async def test_the_answer_lists_what_became_of_each_name(
    api: Any, definitions: str, three: list[dict[str, Any]], a_definition: Any
) -> None:
    a, b, _ = three
    changed = {**b, "cron": "1 1 * * *"}
    answer = await _put(api, definitions, a_definition("d"), changed, a, prune=True)
    assert answer.status_code == 200
    assert answer.json() == {
        "created": ["d"],
        "updated": ["b"],
        "unchanged": ["a"],
        "deleted": ["c"],
    }
    assert await _names(api, definitions) == ["a", "b", "d"]
    found = (await api.get(f"{definitions}/b")).json()
    assert (found["cron"], found["revision"]) == ("1 1 * * *", 2)
    assert (await api.get(f"{definitions}/a")).json()["revision"] == 1


async def test_what_is_not_named_stays_unless_it_is_to_be_pruned(
    api: Any, definitions: str, three: list[dict[str, Any]]
) -> None:
    for query, names in (({}, ["a", "b", "c"]), ({"prune": "false"}, ["a", "b", "c"])):
        answer = await _put(api, definitions, three[0], **query)
        assert answer.json() == {**NOTHING, "unchanged": ["a"]}
        assert await _names(api, definitions) == names
    answer = await _put(api, definitions, prune=True)
    assert answer.json() == {**NOTHING, "deleted": ["a", "b", "c"]}
    assert await _names(api, definitions) == []


async def test_a_second_put_of_the_same_changes_nothing(
    api: Any, definitions: str, three: list[dict[str, Any]], sql: asyncpg.Connection
) -> None:
    await sql.execute("delete from changes")
    answer = await _put(api, definitions, *three, prune=True)
    assert answer.json() == {**NOTHING, "unchanged": ["a", "b", "c"]}
    assert await sql.fetchval("select count(*) from audit where kind = 'definition'") == 0
    assert await sql.fetchval("select count(*) from changes") == 0


async def test_what_is_left_out_of_an_entry_gets_its_default(
    api: Any, definitions: str, a_definition: Any
) -> None:
    await _put(api, definitions, a_definition("a", title="A", retries=3))
    await _put(api, definitions, a_definition("a"))
    found = (await api.get(f"{definitions}/a")).json()
    assert (found["title"], found["retries"]) == (None, 0)


async def test_a_name_that_was_pruned_can_be_used_again_at_once(
    api: Any, definitions: str, three: list[dict[str, Any]]
) -> None:
    before = (await api.get(f"{definitions}/a")).json()["id"]
    await _put(api, definitions, three[1], prune=True)
    answer = await _put(api, definitions, three[0], prune=True)
    assert answer.json() == {**NOTHING, "created": ["a"], "deleted": ["b"]}
    assert (await api.get(f"{definitions}/a")).json()["id"] != before


async def test_it_is_one_transaction_that_prunes_first_in_the_caller_s_name(
    api: Any,
    acme: str,
    definitions: str,
    three: list[dict[str, Any]],
    a_definition: Any,
    sql: asyncpg.Connection,
) -> None:
    changed = {**three[0], "title": "A"}
    await api.token("editor")
    await sql.execute("delete from audit")
    await _put(api, definitions, changed, a_definition("d"), prune=True)
    rows = await sql.fetch("select *, xmin from audit order by id")
    assert len({row["xmin"] for row in rows}) == 1
    assert {row["who"] for row in rows} == {"editor"}
    done = [(row["operation"], row["name"]) for row in rows]
    assert Counter(done[:2]) == Counter([("delete", "b"), ("delete", "c")])
    assert Counter(done[2:]) == Counter([("update", "a"), ("insert", "d")])
    xmin = await sql.fetchval("select xmin from definitions where name = 'd'")
    assert xmin == rows[0]["xmin"]
    logged = await sql.fetch("select * from delete_requests")
    assert {(row["who"], row["tenant"]) for row in logged} == {("editor", acme)}


async def test_what_is_created_says_by_whom(
    api: Any, definitions: str, three: list[dict[str, Any]]
) -> None:
    assert (await api.get(f"{definitions}/a")).json()["created_by"] == "editor"


async def test_another_tenant_is_not_touched(
    api: Any, definitions: str, three: list[dict[str, Any]], sql: asyncpg.Connection
) -> None:
    await sql.execute("insert into tenants (slug) values ('other')")
    await sql.execute(
        "insert into definitions (tenant, name, duty) values ('other', 'a', 'workflow_run')"
    )
    await _put(api, definitions, prune=True)
    assert await sql.fetchval("select count(*) from definitions where tenant = 'other'") == 1


# -- a dry run


async def test_a_dry_run_answers_the_same_and_changes_nothing(
    api: Any,
    definitions: str,
    three: list[dict[str, Any]],
    a_definition: Any,
    sql: asyncpg.Connection,
) -> None:
    await api.token("editor")
    tables = "select (select array_agg(d order by id) from definitions d)::text, "
    tables += "(select array_agg(a order by id) from audit a)::text, "
    tables += "(select array_agg(c order by id) from changes c)::text"
    before = await sql.fetchrow(tables)
    entries = (a_definition("d"), {**three[0], "title": "A"}, three[1])
    would = await _put(api, definitions, *entries, prune=True, dry_run=True)
    assert await sql.fetchrow(tables) == before
    does = await _put(api, definitions, *entries, prune=True)
    assert would.status_code == 200
    assert would.json() == does.json()
    assert does.json()["deleted"] == ["c"]


async def test_a_dry_run_refuses_what_would_be_refused(
    api: Any, definitions: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    # Even what only the database knows.
    await sql.execute(
        "alter table definitions add constraint \"title: not X\" check (title <> 'X')"
    )
    for query in ({"dry_run": True}, {}):
        answer = await _put(api, definitions, a_definition("a", title="X"), **query)
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"field": "title", "detail": "not X"}]


# -- what is refused


async def test_one_bad_definition_and_nothing_changes(
    api: Any, definitions: str, three: list[dict[str, Any]], a_definition: Any
) -> None:
    entries = (
        {**three[0], "title": "A"},
        a_definition("good"),
        a_definition("late", cron="61 * * * *"),
        a_definition("lost", duty="nothing"),
    )
    answer = await _put(api, definitions, *entries, prune=True)
    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["errors"]] == ["late.cron", "lost.duty"]
    assert await _names(api, definitions) == ["a", "b", "c"]
    assert (await api.get(f"{definitions}/a")).json()["title"] is None


async def test_everything_that_is_wrong_is_told_at_once(
    api: Any, definitions: str, a_definition: Any
) -> None:
    answer = await _put(
        api,
        definitions,
        {"name": "a", "duty": "workflow_run", "retries": -1, "colour": 1},
        {"duty": "workflow_run"},
        {"name": "B", "duty": "workflow_run"},
        "c",
        a_definition("d"),
        a_definition("d"),
    )
    assert answer.status_code == 422
    said = [(one["field"], one["detail"]) for one in answer.json()["errors"]]
    assert [field for field, _ in said] == [
        "a.retries",
        "a.colour",
        "definitions.1",
        "B.name",
        "definitions.3",
        "d.name",
    ]
    assert "twice" in said[-1][1]


@pytest.mark.parametrize("prune", [False, True])
async def test_a_body_that_names_no_definitions_deletes_none(
    api: Any, definitions: str, three: list[dict[str, Any]], prune: bool
) -> None:
    for content, media in (
        ("{}", "application/json"),
        ("[]", "application/json"),
        ("null", "application/json"),
        ('{"definitions": null}', "application/json"),
        ('{"definitions": {}}', "application/json"),
        ('{"definition": []}', "application/json"),
        ("", "application/json"),
        ("{}", "application/yaml"),
        ("", "application/yaml"),
        ("---\n", "application/yaml"),
        ("definitions:\n", "application/yaml"),
        ("a: [", "application/yaml"),
        ("&a [*a]", "application/yaml"),
    ):
        headers = {"Content-Type": media}
        answer = await api.put(
            definitions, content=content, headers=headers, params={"prune": prune}
        )
        assert answer.status_code == 422, (content, media)
        assert answer.json()["errors"], (content, media)
    assert await _names(api, definitions) == ["a", "b", "c"]


async def test_an_editor_does_not_rename_a_tenant_along_with_its_definitions(
    api: Any, acme: str, definitions: str, three: list[dict[str, Any]]
) -> None:
    await api.put(f"/tenants/{acme}", json={"title": "Acme"})
    document = {"tenant": acme, "title": "Emca", "definitions": three}
    answer = await api.put(definitions, "editor", json=document)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "title"
    assert (await api.get(f"/tenants/{acme}")).json()["title"] == "Acme"
    # What `rota dump` has written can be put back.
    again = await api.put(definitions, "editor", json={**document, "title": "Acme"})
    assert again.json() == {**NOTHING, "unchanged": ["a", "b", "c"]}


# -- forms


async def test_yaml_is_taken_as_json_is(
    api: Any, definitions: str, three: list[dict[str, Any]]
) -> None:
    text = yaml.safe_dump({"definitions": three})
    for media in ("application/yaml", "application/x-yaml", "text/yaml; charset=utf-8"):
        answer = await api.put(definitions, "editor", content=text, headers={"Content-Type": media})
        assert answer.json() == {**NOTHING, "unchanged": ["a", "b", "c"]}, media
    for media in ("text/plain", "application/xml", "application/x-www-form-urlencoded"):
        answer = await api.put(definitions, "editor", content=text, headers={"Content-Type": media})
        assert answer.status_code == 415, media
        assert "application/yaml" in answer.json()["detail"]


async def test_semaphore_s_own_files_are_taken_all_three_versions_of_them(
    api: Any, definitions: str
) -> None:
    headers = {"Content-Type": "application/yaml"}
    answer = await api.put(definitions, "editor", content=SEMAPHORE, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["created"] == ["p1", "nightly-build", "by-hand", "own"]
    first = (await api.get(f"{definitions}/p1")).json()
    assert (first["cron"], first["timezone"], first["day_and"]) == ("0 0 * * *", "UTC", True)
    second = (await api.get(f"{definitions}/nightly-build")).json()
    assert second["cron"] == "30 2 * * MON-FRI"
    assert [one["name"] for one in second["inputs"]] == ["TARGET"]
    third = (await api.get(f"{definitions}/by-hand")).json()
    assert third["cron"] is None
    again = await api.put(definitions, "editor", content=SEMAPHORE, headers=headers)
    assert len(again.json()["unchanged"]) == 4


async def test_a_year_in_semaphore_s_sixth_field_is_refused(api: Any, definitions: str) -> None:
    text = SEMAPHORE.replace("0 0 * * * *", "0 0 * * * 2027")
    headers = {"Content-Type": "application/yaml"}
    answer = await api.put(definitions, "editor", content=text, headers=headers)
    assert answer.status_code == 422
    assert "spec.at" in answer.json()["detail"]
    assert await _names(api, definitions) == []


# -- at once


async def test_two_who_prune_at_once_leave_what_one_of_them_wrote(
    api: Any, definitions: str, three: list[dict[str, Any]], a_definition: Any
) -> None:
    await api.token("editor")
    left, right = ([a_definition(f"{side}{n}") for n in range(5)] for side in ("l", "r"))
    answers = await asyncio.gather(
        _put(api, definitions, *left, prune=True), _put(api, definitions, *right, prune=True)
    )
    assert [one.status_code for one in answers] == [200, 200]
    names = await _names(api, definitions)
    assert names in ([one["name"] for one in left], [one["name"] for one in right])


async def test_a_definition_that_is_created_meanwhile_is_seen(
    api: Any, acme: str, definitions: str, a_definition: Any, sql: asyncpg.Connection, blocked: Any
) -> None:
    await api.token("editor")
    async with sql.transaction():
        await sql.execute(
            "insert into definitions (tenant, name, duty) values ($1, 'late', 'workflow_run')", acme
        )
        putting = asyncio.ensure_future(_put(api, definitions, a_definition("a"), prune=True))
        await blocked()
    assert (await putting).json() == {**NOTHING, "created": ["a"], "deleted": ["late"]}


async def test_a_tenant_that_is_deleted_meanwhile_is_not_made_anew(
    api: Any, acme: str, definitions: str, a_definition: Any, sql: asyncpg.Connection, blocked: Any
) -> None:
    await api.token("editor")
    async with sql.transaction():
        await sql.execute("delete from tenants where slug = $1", acme)
        putting = asyncio.ensure_future(_put(api, definitions, a_definition("a")))
        await blocked()
    assert (await putting).status_code == 404
    assert await sql.fetchval("select count(*) from tenants") == 0


async def test_a_thousand_definitions_are_written_at_once(
    api: Any, definitions: str, a_definition: Any
) -> None:
    entries = [a_definition(f"n{number}") for number in range(1000)]
    answer = await _put(api, definitions, *entries)
    assert len(answer.json()["created"]) == 1000
    entries[500]["cron"] = "1 1 * * *"
    answer = await _put(api, definitions, *entries[1:], prune=True)
    said = answer.json()
    assert (said["updated"], said["deleted"]) == (["n500"], ["n0"])
    assert len(said["unchanged"]) == 998
