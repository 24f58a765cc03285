"""Definitions, one at a time: created, read, replaced, changed, deleted."""

import asyncio
from collections import Counter
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from store.models import SPEC_COLUMNS

MISSING = "There is no definition "


async def _audited(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    """Takes the rows of the audit about definitions, the oldest first."""
    return list(
        await sql.fetch(
            "with gone as (delete from audit where kind = 'definition' returning *, xmin) "
            "select *, before::text as was, after::text as is from gone order by id"
        )
    )


@pytest.fixture
async def nightly(api: Any, definitions: str, a_definition: Any, sql: asyncpg.Connection) -> str:
    """Makes a definition, and returns its path; the audit has forgotten it."""
    created = await api.post(definitions, json=a_definition())
    assert created.status_code == 201
    await sql.execute("delete from audit")
    return f"{definitions}/nightly"


# -- created


async def test_a_definition_is_created_and_read_as_it_was_written(
    api: Any, acme: str, definitions: str
) -> None:
    said = {
        "name": "nightly-sync",
        "title": "Nightly sync",
        "description": "Once a night.",
        "duty": "workflow_run",
        "parameters": {"workflow_id": "sync", "input": {"a": [1, 2.5, None, True, "\u00e9"]}},
        "inputs": [{"name": "branch", "required": True, "default": "main", "regex": "^[a-z]+$"}],
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "day_and": True,
        "starts_at": "2026-12-01T01:00:00+01:00",
        "ends_at": "2027-12-01T00:00:00Z",
        "enabled": False,
        "paused_until": "2027-01-01T00:00:00Z",
        "pause_note": "Not yet.",
        "overlap": "skip",
        "retries": 3,
        "retry_delay_seconds": 60,
        "timeout_seconds": 1.5,
        "work_pool": "rota",
        "job_variables": {"env": {"LANG": "C"}},
        "tags": ["nightly", "sync"],
        "keep_runs": 5,
        "pause_after_failures": 3,
        "notify": ["slack-webhook/ops"],
        "notify_on": ["success", "failure"],
        "notify_after": 2,
    }
    created = await api.post(definitions, json=said)
    assert created.status_code == 201
    assert created.headers["Location"] == f"/api/v1{definitions}/nightly-sync"
    read = await api.get(created.headers["Location"], "viewer")
    assert read.status_code == 200
    assert read.json() == created.json()
    assert read.headers["ETag"] == created.headers["ETag"]
    found = read.json()
    instants = {"starts_at": "2026-12-01T00:00:00Z"}
    assert {name: found[name] for name in said} == said | instants
    assert found["tenant"] == acme
    assert found["reference"] == f"{acme}/nightly-sync"
    assert found["state"] == "paused"
    assert found["revision"] == 1
    assert found["created_by"] == "admin"
    assert found["problem"] is None
    assert found["deployment_id"] is None


async def test_what_is_left_out_has_its_default(api: Any, definitions: str) -> None:
    body = {"name": "x", "duty": "workflow_run", "parameters": {"workflow_id": "x"}}
    found = (await api.post(definitions, json=body)).json()
    assert found["timezone"] == "UTC"
    assert found["enabled"] is True
    assert (found["cron"], found["interval_seconds"], found["run_at"]) == (None, None, None)
    assert (found["overlap"], found["retries"], found["keep_runs"]) == ("allow", 0, 10)
    assert found["state"] == "waiting"


async def test_every_column_of_the_user_s_can_be_written_and_no_other(
    api: Any, nightly: str
) -> None:
    found = (await api.get(nightly)).json()
    spec = {"name", *SPEC_COLUMNS}
    assert spec < found.keys()
    for field in found.keys() - spec:
        answer = await api.patch(nightly, json={field: found[field]})
        assert answer.status_code == 422, field
        assert [one["field"] for one in answer.json()["errors"]] == [field]


async def test_all_instants_are_in_utc_and_say_so(api: Any, nightly: str, watch: Any) -> None:
    await watch.settle()
    found = (await api.get(nightly)).json()
    for field in ("created_at", "updated_at", "applied_at", "next_run_at"):
        assert found[field].endswith("Z"), field
        assert datetime.fromisoformat(found[field]).utcoffset() is not None
    assert found["state"] == "active"
    assert found["deployment_id"] is not None


async def test_a_name_that_is_taken_is_told(
    api: Any, nightly: str, definitions: str, a_definition: Any
) -> None:
    answer = await api.post(definitions, json=a_definition(cron="5 5 * * *"))
    assert answer.status_code == 409
    assert answer.json()["errors"] == [{"field": "name", "detail": "it is taken"}]
    assert (await api.get(nightly)).json()["cron"] == "0 3 * * *"


async def test_of_two_who_create_one_name_at_once_one_is_told_that_it_is_taken(
    api: Any, definitions: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    await api.token("editor")
    answers = await asyncio.gather(
        *(api.post(definitions, "editor", json=a_definition(title=str(n))) for n in range(5))
    )
    assert Counter(one.status_code for one in answers) == {201: 1, 409: 4}
    [winner] = [one.json() for one in answers if one.status_code == 201]
    assert winner["title"] == (await api.get(f"{definitions}/nightly")).json()["title"]
    assert len(await _audited(sql)) == 1


UNFIT: tuple[tuple[str, Any], ...] = (
    ("duty", "workflow_rum"),
    ("cron", "0 0 30 2 *"),
    ("cron", "* * * * * *"),
    ("timezone", "Europe/Berln"),
    ("interval_seconds", 59),
    ("after_seconds", 0),
    ("run_at", "2020-01-01T00:00:00Z"),
    ("anchor_at", "2027-01-01T00:00:00Z"),
    ("retries", 101),
    ("retries", True),
    ("retry_delay_seconds", -1),
    ("timeout_seconds", 0),
    ("keep_runs", 0),
    ("pause_after_failures", 1001),
    ("notify", ["ops"]),
    ("notify_on", ["never"]),
    ("notify_after", 0),
    ("overlap", "never"),
    ("tags", ["rota:x"]),
    ("tags", ["x"] * 21),
    ("parameters", {"workflow_id": ""}),
    ("parameters", {"workflow": "x"}),
    ("parameters", {"workflow_id": None}),
    ("parameters", {"workflow_id": {"__prefect_kind": "jinja", "template": "{{ 1 }}"}}),
    ("parameters", {"workflow_id": "x", "input": {"a": {"$ref": {"block_document_id": "x"}}}}),
    ("parameters", {"workflow_id": "x", "input": {"a": 2**64}}),
    ("inputs", [{"name": "1"}]),
    ("inputs", [{"name": "a"}, {"name": "a"}]),
    ("inputs", [{"name": "a", "regex": "("}]),
    ("inputs", [{"name": "a", "regex": "a" * 513}]),
    ("inputs", [{"name": "a", "regex": "^b$", "default": "c"}]),
    ("inputs", [{"name": "a", "options": ["b"], "default": "c"}]),
    ("inputs", [{"name": "a", "default": "x" * 4097}]),
    ("job_variables", {"env": "x"}),
    ("job_variables", {"a": "x" * 65536}),
    ("title", "x" * 256),
    ("description", "x" * 16385),
    ("pause_note", 1),
    ("enabled", "yes"),
    ("starts_at", "tomorrow"),
)


async def test_what_does_not_fit_is_refused_with_its_field_by_every_way_of_writing(
    api: Any, nightly: str, definitions: str, a_definition: Any, subtests: Any
) -> None:
    before = (await api.get(nightly)).json()
    for field, value in UNFIT:
        with subtests.test(f"{field}: {value!r:.50}"):
            timed = field in ("interval_seconds", "run_at", "after_seconds")
            clear = {"cron": None} if timed else {}
            body = a_definition("another", **clear) | {field: value}
            answers = [
                await api.post(definitions, json=body),
                await api.put(nightly, json=body | {"name": "nightly"}),
                await api.patch(nightly, json=clear | {field: value}),
            ]
            for answer in answers:
                assert answer.status_code == 422, answer.text
                named = {one["field"].partition(".")[0] for one in answer.json()["errors"]}
                assert named == {field}
            document = {"definitions": [a_definition("fine"), body]}
            answer = await api.put(definitions, json=document)
            assert answer.status_code == 422
            named = {one["field"] for one in answer.json()["errors"]}
            assert {".".join(one.split(".")[:2]) for one in named} == {f"another.{field}"}
    assert (await api.get(nightly)).json() == before
    assert (await api.get(definitions)).json()["total"] == 1


async def test_two_schedules_in_one_definition_are_refused(
    api: Any, definitions: str, a_definition: Any
) -> None:
    answer = await api.post(definitions, json=a_definition(interval_seconds=60, cron="* * * * *"))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "cron"
    assert "stands beside interval_seconds" in answer.json()["detail"]


async def test_a_missing_tenant_is_told_by_every_route(api: Any, a_definition: Any) -> None:
    body = a_definition()
    for method, path, what in (
        ("GET", "", None),
        ("POST", "", body),
        ("PUT", "", {"definitions": [body]}),
        ("GET", "/nightly", None),
        ("PUT", "/nightly", body),
        ("PATCH", "/nightly", {}),
        ("DELETE", "/nightly", None),
        ("POST", "/nightly/pause", {}),
        ("POST", "/nightly/resume", None),
        ("POST", "/nightly/run", {}),
        ("GET", "/nightly/preview", None),
        ("GET", "/nightly/runs", None),
    ):
        answer = await api.call(method, f"/tenants/nobody/definitions{path}", json=what)
        assert answer.status_code == 404, method + path
        assert answer.json()["detail"] == "There is no tenant 'nobody'."
    assert (await api.get("/tenants")).json()["total"] == 0


async def test_a_missing_definition_is_told_by_every_route(
    api: Any, acme: str, definitions: str
) -> None:
    for method, path, what in (
        ("GET", "", None),
        ("PATCH", "", {}),
        ("DELETE", "", None),
        ("POST", "/pause", {}),
        ("POST", "/resume", None),
        ("POST", "/run", {}),
        ("GET", "/preview", None),
        ("GET", "/runs", None),
    ):
        for name in ("nothing", "No-Slug", "a%00b", "x" * 64):
            answer = await api.call(method, f"{definitions}/{name}{path}", json=what)
            assert answer.status_code == 404, f"{method} {name}{path}: {answer.text}"
            assert answer.json()["detail"].startswith(f"{MISSING}'{acme}/")


# -- replaced


async def test_put_creates_what_is_not_there_and_replaces_all_of_what_is(
    api: Any, definitions: str, a_definition: Any
) -> None:
    body = a_definition("new", title="Old", retries=3)
    created = await api.put(f"{definitions}/new", "editor", json=body)
    assert created.status_code == 201
    assert created.json()["created_by"] == "editor"
    del body["title"], body["name"]
    replaced = await api.put(f"{definitions}/new", json=body | {"cron": "1 1 * * *"})
    assert replaced.status_code == 200
    said = replaced.json()
    assert (said["title"], said["retries"], said["cron"]) == (None, 3, "1 1 * * *")
    assert (said["id"], said["created_by"]) == (created.json()["id"], "editor")
    assert said["revision"] == 2


async def test_a_put_that_changes_nothing_writes_nothing(
    api: Any, nightly: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    before = await api.get(nightly)
    again = await api.put(nightly, json=a_definition())
    assert again.status_code == 200
    assert again.json() == before.json()
    assert again.headers["ETag"] == before.headers["ETag"]
    assert await _audited(sql) == []


async def test_a_name_does_not_change(api: Any, nightly: str, a_definition: Any) -> None:
    for answer in (
        await api.put(nightly, json=a_definition("daily")),
        await api.patch(nightly, json={"name": "daily"}),
    ):
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "name"
        assert "names do not change" in answer.json()["detail"]


async def test_a_date_that_has_passed_since_may_stay(
    api: Any, definitions: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    await api.post(definitions, json=a_definition(cron=None, run_at="2030-01-01T00:00:00Z"))
    # It was written a year before a date that is now gone.
    await sql.execute("alter table definitions disable trigger user")
    await sql.execute(
        "update definitions set run_at = '2025-06-01T00:00Z', updated_at = '2025-01-01T00:00Z', "
        "created_at = '2025-01-01T00:00Z'"
    )
    await sql.execute("alter table definitions enable trigger user")
    body = a_definition(cron=None, run_at="2025-06-01T00:00:00Z")
    assert (await api.put(f"{definitions}/nightly", json=body)).status_code == 200
    changed = await api.put(f"{definitions}/nightly", json=body | {"run_at": "2025-06-02T00:00Z"})
    assert changed.status_code == 422
    assert "had passed" in changed.json()["detail"]


# -- changed


async def test_patch_changes_what_it_names_and_null_gives_the_default(
    api: Any, nightly: str
) -> None:
    await api.patch(nightly, json={"title": "Nightly", "retries": 2, "tags": ["a"]})
    answer = await api.patch(nightly, json={"title": None, "tags": None, "timezone": None})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["title"], found["retries"], found["tags"]) == (None, 2, [])
    assert (found["timezone"], found["cron"]) == ("UTC", "0 3 * * *")


async def test_patch_merges_objects_as_rfc_7396_has_it(api: Any, nightly: str) -> None:
    said = {"workflow_id": "x", "input": {"a": 1, "b": {"c": 2, "d": [3]}}, "service": "default"}
    await api.patch(nightly, json={"parameters": said})
    patch = {"parameters": {"input": {"a": None, "b": {"c": 4}}, "service": None}}
    answer = await api.patch(
        nightly, json=patch, headers={"Content-Type": "application/merge-patch+json"}
    )
    assert answer.status_code == 200
    assert answer.json()["parameters"] == {
        "workflow_id": "x",
        "input": {"b": {"c": 4, "d": [3]}},
    }


async def test_patch_changes_the_kind_of_schedule_in_one_step(api: Any, nightly: str) -> None:
    answer = await api.patch(nightly, json={"cron": None, "interval_seconds": 3600})
    assert answer.status_code == 200
    assert (answer.json()["cron"], answer.json()["interval_seconds"]) == (None, 3600)


async def test_a_patch_of_nothing_changes_nothing(
    api: Any, nightly: str, sql: asyncpg.Connection
) -> None:
    before = await api.get(nightly)
    assert (await api.patch(nightly, json={})).json() == before.json()
    assert await _audited(sql) == []


async def test_null_for_what_has_no_default_is_refused(api: Any, nightly: str) -> None:
    answer = await api.patch(nightly, json={"duty": None})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "duty"


# -- deleted


async def test_what_is_deleted_is_gone_and_logged_with_who_when_and_what(
    api: Any, acme: str, nightly: str, sql: asyncpg.Connection
) -> None:
    before = (await api.get(nightly)).json()
    since = await sql.fetchval("select clock_timestamp()")
    answer = await api.delete(nightly, "editor")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await api.get(nightly)).status_code == 404
    assert (await api.delete(nightly)).status_code == 404
    [logged] = await sql.fetch(
        "select *, definition::jsonb #>> '{cron}' as cron from delete_requests"
    )
    assert (logged["who"], logged["tenant"], logged["name"]) == ("editor", acme, "nightly")
    assert since < logged["at"] < await sql.fetchval("select clock_timestamp()")
    assert logged["cron"] == before["cron"]


async def test_a_name_can_be_used_again_and_an_old_etag_does_not_fit_the_new_one(
    api: Any, nightly: str, definitions: str, a_definition: Any
) -> None:
    old = (await api.get(nightly)).headers["ETag"]
    await api.delete(nightly)
    again = await api.post(definitions, json=a_definition())
    assert again.status_code == 201
    assert again.headers["ETag"] != old
    stale = await api.delete(nightly, headers={"If-Match": old})
    assert stale.status_code == 412


# -- who decides what runs on a worker


@pytest.mark.parametrize("who", ["editor", "admin"])
async def test_job_variables_take_an_administrator_of_all_tenants(
    api: Any, acme: str, definitions: str, nightly: str, a_definition: Any, who: str
) -> None:
    who = f"{who}@{acme}"
    powerful = {"job_variables": {"env": {"PATH": "/tmp"}, "isolation": "process"}}
    for method, path, body in (
        ("POST", definitions, a_definition("another", **powerful)),
        ("PUT", f"{definitions}/another", a_definition("another", **powerful)),
        ("PUT", nightly, a_definition(**powerful)),
        ("PATCH", nightly, powerful),
        ("PUT", definitions, {"definitions": [a_definition(**powerful)]}),
    ):
        answer = await api.call(method, path, who, json=body)
        assert answer.status_code == 403, f"{method} {path}"
        assert answer.json()["errors"][0]["field"].endswith("job_variables.env")
    assert (await api.get(definitions)).json()["total"] == 1
    assert (await api.get(nightly)).json()["job_variables"] == {}


async def test_others_may_change_what_stands_beside_job_variables_and_harmless_ones(
    api: Any, acme: str, nightly: str, a_definition: Any
) -> None:
    who = f"editor@{acme}"
    env = {"env": {"LANG": "C"}}
    assert (await api.patch(nightly, json={"job_variables": env})).status_code == 200
    body = a_definition(title="x", job_variables=env | {"isolation": "process"})
    assert (await api.put(nightly, who, json=body)).status_code == 200
    assert (await api.patch(nightly, who, json={"title": "y"})).status_code == 200
    assert (await api.patch(nightly, who, json={"job_variables": {"env": None}})).status_code == 403
    assert (await api.get(nightly)).json()["job_variables"] == env | {"isolation": "process"}


# -- in whose name


async def test_each_write_and_its_row_of_the_audit_are_one_transaction(
    api: Any, definitions: str, a_definition: Any, acme: str, sql: asyncpg.Connection
) -> None:
    writes: list[tuple[str, str, Any, str]] = [
        ("POST", definitions, a_definition(), "insert"),
        ("PUT", f"{definitions}/nightly", a_definition(title="a"), "update"),
        ("PATCH", f"{definitions}/nightly", {"title": "b"}, "update"),
        ("POST", f"{definitions}/nightly/pause", {"note": "c"}, "update"),
        ("POST", f"{definitions}/nightly/resume", None, "update"),
        ("PUT", f"{definitions}/hourly", a_definition("hourly"), "insert"),
        ("PUT", definitions, {"definitions": [a_definition("daily")]}, "insert"),
        ("DELETE", f"{definitions}/hourly", None, "delete"),
    ]
    await sql.execute("delete from audit")
    for method, path, body, operation in writes:
        answer = await api.call(method, path, "editor", json=body)
        assert answer.is_success, answer.text
        [row] = await _audited(sql)
        assert (row["who"], row["operation"], row["tenant"]) == ("editor", operation, acme), path
        written = await sql.fetchval(
            "select xmin from definitions where tenant = $1 and name = $2", acme, row["name"]
        )
        assert written in (None, row["xmin"])
        assert (written is None) == (operation == "delete")


async def test_a_write_that_cannot_be_audited_does_not_happen(
    api: Any, definitions: str, nightly: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    await sql.execute("alter table audit add constraint nobody check (who <> 'editor')")
    before = (await api.get(nightly)).json()
    for method, path, body in (
        ("POST", definitions, a_definition("another")),
        ("PUT", f"{definitions}/another", a_definition("another")),
        ("PUT", definitions, {"definitions": [a_definition("another")]}),
        ("PATCH", nightly, {"title": "b"}),
        ("POST", f"{nightly}/pause", {}),
        ("DELETE", nightly, None),
    ):
        answer = await api.call(method, path, "editor", json=body)
        assert not answer.is_success
    assert (await api.get(nightly)).json() == before
    assert (await api.get(definitions)).json()["total"] == 1


async def test_the_audit_says_what_stood_there_and_what_stands_there_without_secrets(
    api: Any, acme: str, nightly: str
) -> None:
    secret = {"workflow_id": "x", "input": {"api_token": "swordfish"}}
    await api.patch(nightly, "editor", json={"parameters": secret, "title": "New"})
    answer = await api.get("/audit", params={"tenant": acme, "name": "nightly"})
    [write] = answer.json()["items"]
    assert (write["who"], write["operation"], write["kind"]) == ("editor", "update", "definition")
    assert (write["before"]["title"], write["after"]["title"]) == (None, "New")
    assert "swordfish" not in answer.text
    assert "run_count" not in write["after"]  # what becomes of it is no write of anybody's


# -- who was first


async def test_a_stale_etag_is_refused_and_the_current_one_is_told(
    api: Any, nightly: str, a_definition: Any
) -> None:
    old = (await api.get(nightly)).headers["ETag"]
    new = (await api.patch(nightly, json={"title": "a"}, headers={"If-Match": old})).headers["ETag"]
    assert new != old
    stale = {"If-Match": old}
    for answer in (
        await api.put(nightly, json=a_definition(), headers=stale),
        await api.patch(nightly, json={"title": "b"}, headers=stale),
        await api.delete(nightly, headers=stale),
    ):
        assert answer.status_code == 412
        assert new in answer.json()["detail"]
    assert (await api.get(nightly)).json()["title"] == "a"


async def test_if_match_takes_a_list_and_a_star_and_no_other_form(api: Any, nightly: str) -> None:
    for form, expected in (
        ("{}", 200),
        ('"x", {}', 200),
        (' {} , "y"', 200),
        ("*", 200),
        ("W/{}", 412),
        ("", 412),
        ("{}x", 412),
        ('"*"', 412),
        ("nothing", 412),
    ):
        headers = {"If-Match": form.format((await api.get(nightly)).headers["ETag"])}
        answer = await api.patch(nightly, json={"title": form}, headers=headers)
        assert answer.status_code == expected, form


async def test_if_match_of_what_is_not_there_is_refused(
    api: Any, definitions: str, a_definition: Any
) -> None:
    for match in ("*", '"0190a3c2-3"'):
        answer = await api.put(
            f"{definitions}/nightly", json=a_definition(), headers={"If-Match": match}
        )
        assert answer.status_code == 412
        assert "does not exist" in answer.json()["detail"]


async def test_status_columns_do_not_make_an_etag_stale(api: Any, nightly: str, watch: Any) -> None:
    etag = (await api.get(nightly)).headers["ETag"]
    await watch.settle()
    answer = await api.get(nightly)
    assert answer.json()["deployment_id"] is not None
    assert answer.headers["ETag"] == etag


async def test_of_many_writers_with_one_if_match_exactly_one_wins(
    api: Any, nightly: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    for turn in range(5):
        etag = (await api.get(nightly)).headers["ETag"]
        headers = {"If-Match": etag}
        answers = await asyncio.gather(
            *(
                api.patch(nightly, "editor", json={"title": f"{turn}.{n}"}, headers=headers)
                if n % 2
                else api.put(nightly, json=a_definition(title=f"{turn}.{n}"), headers=headers)
                for n in range(6)
            )
        )
        assert Counter(one.status_code for one in answers) == {200: 1, 412: 5}
        [winner] = [one.json()["title"] for one in answers if one.status_code == 200]
        assert (await api.get(nightly)).json()["title"] == winner
        assert len(await _audited(sql)) == 1


async def test_two_writers_that_both_have_read_before_either_writes(
    api: Any, nightly: str, sql: asyncpg.Connection, blocked: Any
) -> None:
    """Both wait for the row, so that neither has come too late to be in the other's way."""
    await api.token("admin")
    etag = (await api.get(nightly)).headers["ETag"]
    async with sql.transaction():
        await sql.execute("select from definitions for update")
        writing = [
            asyncio.ensure_future(
                api.patch(nightly, json={"title": title}, headers={"If-Match": etag})
            )
            for title in "ab"
        ]
        await blocked(2)
    answers = await asyncio.gather(*writing)
    assert sorted(one.status_code for one in answers) == [200, 412]


async def test_a_change_by_sql_that_is_under_way_makes_an_if_match_stale(
    api: Any, nightly: str, sql: asyncpg.Connection, blocked: Any
) -> None:
    headers = {"If-Match": (await api.get(nightly)).headers["ETag"]}
    async with sql.transaction():
        await sql.execute("update definitions set title = 'by SQL'")
        writing = asyncio.ensure_future(api.patch(nightly, json={"title": "x"}, headers=headers))
        await blocked()
    assert (await writing).status_code == 412
    assert (await api.get(nightly)).json()["title"] == "by SQL"


async def test_a_delete_and_a_change_with_one_if_match_do_not_both_win(
    api: Any, nightly: str, definitions: str, a_definition: Any
) -> None:
    for _ in range(5):
        etag = (await api.get(nightly)).headers["ETag"]
        headers = {"If-Match": etag}
        deleted, changed = await asyncio.gather(
            api.delete(nightly, headers=headers),
            api.patch(nightly, json={"title": "x"}, headers=headers),
        )
        assert (deleted.status_code, changed.status_code) in ((204, 412), (412, 200))
        await api.put(nightly, json=a_definition())


async def test_if_none_match_lets_only_the_first_create(
    api: Any, definitions: str, a_definition: Any
) -> None:
    headers = {"If-None-Match": "*"}
    path = f"{definitions}/nightly"
    first = await api.put(path, json=a_definition(title="a"), headers=headers)
    second = await api.put(path, json=a_definition(title="b"), headers=headers)
    assert (first.status_code, second.status_code) == (201, 412)
    assert (await api.get(path)).json()["title"] == "a"


@pytest.mark.parametrize("headers", [{}, {"If-None-Match": "*"}], ids=["plain", "if none match"])
async def test_of_many_who_put_one_name_at_once_one_creates_it(
    api: Any, definitions: str, a_definition: Any, headers: dict[str, str]
) -> None:
    for turn in range(5):
        path = f"{definitions}/at-once-{turn}"
        body = a_definition(f"at-once-{turn}")
        answers = await asyncio.gather(
            *(api.put(path, json=body | {"title": str(n)}, headers=headers) for n in range(5))
        )
        others = 412 if headers else 200
        assert Counter(one.status_code for one in answers) == {201: 1, others: 4}


async def test_a_tenant_that_is_deleted_meanwhile_takes_no_new_definition(
    api: Any,
    acme: str,
    definitions: str,
    a_definition: Any,
    sql: asyncpg.Connection,
    blocked: Any,
) -> None:
    await api.token("admin")
    async with sql.transaction():
        await sql.execute("delete from tenants where slug = $1", acme)
        writing = asyncio.ensure_future(api.post(definitions, json=a_definition()))
        await blocked(1)
    assert (await writing).status_code == 404
