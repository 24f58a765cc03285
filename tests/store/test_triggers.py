import asyncio
import json

import asyncpg
import pytest

from store import roster
from store.models import SPEC_COLUMNS

# For each column of the user's, a value that a fresh row does not have.
OTHER = {
    "title": "'Every night'",
    "description": "'Tidies up.'",
    "duty": "'reconcile'",
    "parameters": """'{"workflow_id": "w"}'""",
    "inputs": """'[{"name": "branch"}]'""",
    "cron": "'0 4 * * *'",
    "interval_seconds": "3600, cron = null",
    "anchor_at": "now(), cron = null, interval_seconds = 3600",
    "run_at": "now(), cron = null",
    "after_seconds": "60, cron = null",
    "timezone": "'Europe/Berlin'",
    "day_and": "true",
    "starts_at": "now()",
    "ends_at": "now()",
    "enabled": "false",
    "paused_until": "now()",
    "pause_note": "'holidays'",
    "overlap": "'skip'",
    "retries": "1",
    "retry_delay_seconds": "1",
    "timeout_seconds": "1",
    "work_pool": "'kubernetes'",
    "job_variables": """'{"env": {}}'""",
    "tags": "'{nightly}'",
    "keep_runs": "11",
    "pause_after_failures": "3",
    "notify": "'{slack-webhook/ops}'",
    "notify_on": "'{success}'",
    "notify_after": "2",
}

STATUS = {
    "deployment_id": "gen_random_uuid()",
    "fingerprint": "'0123456789abcdef'",
    "applied_at": "now()",
    "problem": "'cron: no'",
    "next_run_at": "now()",
    "last_run_at": "now()",
    "last_status": "'Completed'",
    "run_count": "7",
    "failures": "7",
    "outcome": "'failure'",
    "revision": "7",
}


async def test_a_minimal_insert_is_enough(sql, rows):
    await rows.tenant()
    await sql.execute(
        "insert into definitions (tenant, name, duty, cron, parameters) "
        """values ('acme', 'nightly', 'workflow_run', '0 3 * * *', '{"workflow_id": "w"}')"""
    )

    row = await sql.fetchrow("select * from definitions")
    assert (row["timezone"], row["enabled"], row["overlap"]) == ("UTC", True, "allow")
    assert (row["retries"], row["retry_delay_seconds"], row["timeout_seconds"]) == (0, 0, None)
    assert (row["job_variables"], row["tags"], row["keep_runs"]) == ("{}", [], 10)
    assert (row["inputs"], row["revision"]) == ("[]", 1)
    assert (row["created_by"], row["run_count"], row["problem"]) == ("postgres", 0, None)
    assert row["created_at"] is not None


async def test_an_insert_is_noted(rows):
    await rows.tenant()
    await rows.definition()

    assert await rows.notes() == [("insert", "acme", None), ("insert", "acme", "nightly")]


async def test_the_note_of_a_definition_holds_its_id(sql, rows):
    await rows.tenant()
    definition = await rows.definition()

    assert await sql.fetchval("select definition_id from changes where name is not null") == (
        definition
    )


def test_every_column_of_the_users_is_tried():
    assert set(OTHER) == set(SPEC_COLUMNS)


@pytest.mark.parametrize("column", SPEC_COLUMNS)
async def test_a_written_spec_column_is_noted_and_dates_the_row(sql, rows, nightly, column):
    before = await sql.fetchval("select updated_at from definitions")

    await sql.execute(f"update definitions set {column} = {OTHER[column]}")

    assert await rows.notes() == [("update", "acme", "nightly")]
    assert await sql.fetchval("select updated_at from definitions") > before


@pytest.mark.parametrize("column", STATUS)
async def test_a_written_status_column_is_neither_noted_nor_dates_the_row(
    sql, rows, nightly, column
):
    before = await sql.fetchval("select updated_at from definitions")

    await sql.execute(f"update definitions set {column} = {STATUS[column]}")

    assert await rows.notes() == []
    assert await sql.fetchval("select updated_at from definitions") == before


async def test_every_column_is_either_the_users_or_rotas(sql):
    columns = await sql.fetch(
        "select attname from pg_attribute where attrelid = 'definitions'::regclass and attnum > 0"
    )

    identity = {"id", "tenant", "name", "created_at", "updated_at", "created_by"}
    noted = {"after_at"}  # a status column that changes when something is due
    assert {row["attname"] for row in columns} == identity | {*SPEC_COLUMNS} | {*STATUS} | noted


async def test_an_update_that_changes_nothing_is_not_noted(sql, rows, nightly):
    await sql.execute("update definitions set cron = cron, parameters = parameters, tags = tags")

    assert await rows.notes() == []


async def test_each_of_many_rows_is_noted(sql, rows, nightly):
    await rows.definition("weekly")
    await rows.notes()

    await sql.execute("update definitions set enabled = false")

    assert sorted(await rows.notes()) == [
        ("update", "acme", "nightly"),
        ("update", "acme", "weekly"),
    ]


async def test_a_delete_is_noted(sql, rows, nightly):
    await sql.execute("delete from definitions")

    assert await rows.notes() == [("delete", "acme", "nightly")]


async def test_what_is_rolled_back_is_not_noted(sql, rows, nightly):
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("update definitions set enabled = false")
    await transaction.rollback()

    assert await rows.notes() == []


async def test_a_suspension_is_noted_once_for_the_tenant(sql, rows, nightly):
    await sql.execute("update tenants set suspended = true")
    await sql.execute("update tenants set suspended = true")

    assert await rows.notes() == [("update", "acme", None)]


async def test_a_deleted_tenant_takes_its_definitions_along(sql, rows, nightly):
    await rows.definition("weekly")
    await rows.notes()

    await sql.execute("delete from tenants")

    assert await sql.fetchval("select count(*) from definitions") == 0
    assert sorted(await rows.notes(), key=str) == [
        ("delete", "acme", "nightly"),
        ("delete", "acme", "weekly"),
        ("delete", "acme", None),
    ]


@pytest.mark.parametrize("table", ["definitions", "tenants cascade"])
async def test_a_truncated_table_is_noted_as_everything(sql, rows, nightly, table):
    await sql.execute(f"truncate {table}")

    assert set(await rows.notes()) == {("truncate", None, None)}


@pytest.mark.parametrize(
    "change", ["name = 'weekly'", "tenant = 'other'", "id = gen_random_uuid()"]
)
async def test_an_identity_does_not_change(sql, rows, nightly, change):
    await rows.tenant("other")
    await rows.notes()

    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
        await sql.execute(f"update definitions set {change}")

    assert refused.value.message.startswith("name: acme/nightly cannot become ")
    assert refused.value.hint == (
        "Names do not change after creation. Insert a new row and delete this one, or give it "
        "another title."
    )
    assert await rows.notes() == []


async def test_a_tenant_with_definitions_keeps_its_slug(sql, nightly):
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await sql.execute("update tenants set slug = 'other'")


@pytest.mark.parametrize(
    "statement",
    [
        "update definitions set enabled = false",
        "delete from definitions",
        "update tenants set suspended = true",
        "truncate definitions",
    ],
)
async def test_who_listens_is_told_when_the_change_is_there(sql, rows, nightly, statement):
    heard = asyncio.Event()
    await sql.add_listener("rota", lambda *_: heard.set())

    await sql.execute(statement)

    await asyncio.wait_for(heard.wait(), 5)
    assert await rows.notes() != []


async def test_who_listens_is_not_told_of_status_columns(sql, nightly):
    heard: list[object] = []
    await sql.add_listener("rota", lambda *about: heard.append(about))

    await sql.execute("update definitions set run_count = 1")
    # Notifications come in order, so what had come of the update would be here before this one.
    ended = asyncio.Event()
    await sql.add_listener("ended", lambda *_: ended.set())
    await sql.execute("notify ended")
    await asyncio.wait_for(ended.wait(), 5)

    assert heard == []


def _long(characters: int) -> str:
    return f"repeat('x', {characters})"


REFUSED = [
    ("name", "'Nightly'", "name: lower-case letters, digits, single dashes; at most 63"),
    ("name", "'a--b'", "name: lower-case letters, digits, single dashes; at most 63"),
    ("name", "'a.b'", "name: lower-case letters, digits, single dashes; at most 63"),
    ("name", "'-a'", "name: lower-case letters, digits, single dashes; at most 63"),
    ("name", "''", "name: lower-case letters, digits, single dashes; at most 63"),
    ("name", "E'a\\n'", "name: lower-case letters, digits, single dashes; at most 63"),
    ("name", _long(64), "name: lower-case letters, digits, single dashes; at most 63"),
    ("title", _long(256), "title: at most 255 characters"),
    ("description", _long(16385), "description: at most 16384 characters"),
    ("duty", _long(1_000_000), "duty: at most 255 characters"),
    ("parameters", "'[]'", "parameters: a JSON object"),
    ("parameters", "'null'", "parameters: a JSON object"),
    (
        "parameters",
        f"jsonb_build_object('a', {_long(1_000_000)})",
        "parameters: at most 512 KiB as text",
    ),
    ("inputs", "'{}'", "inputs: a list"),
    ("inputs", "'null'", "inputs: a list"),
    ("inputs", f"jsonb_build_array({_long(65536)})", "inputs: at most 64 KiB as text"),
    ("inputs", "'[{\"default\": 1e5000}]'", "inputs: numbers of at most 64 bits"),
    ("inputs", "(repeat('[', 66) || repeat(']', 66))::jsonb", "inputs: nested at most 64 deep"),
    ("cron", _long(256), "cron: at most 255 characters"),
    ("interval_seconds", "59", "interval_seconds: at least 60"),
    ("after_seconds", "0", "after_seconds: 1 to 315360000"),
    ("after_seconds", "315360001", "after_seconds: 1 to 315360000"),
    ("overlap", "'never'", "overlap: allow, skip or queue"),
    ("retries", "-1", "retries: 0 to 100"),
    ("retries", "101", "retries: 0 to 100"),
    ("retry_delay_seconds", "-1", "retry_delay_seconds: 0 to 86400"),
    ("retry_delay_seconds", "86401", "retry_delay_seconds: 0 to 86400"),
    ("timeout_seconds", "0", "timeout_seconds: above 0, or null for none"),
    ("timeout_seconds", "'infinity'", "timeout_seconds: above 0, or null for none"),
    ("timeout_seconds", "'NaN'", "timeout_seconds: above 0, or null for none"),
    ("job_variables", "'[]'", "job_variables: a JSON object"),
    (
        "job_variables",
        f"jsonb_build_object('a', {_long(65536)})",
        "job_variables: at most 64 KiB as text",
    ),
    ("tags", "array_fill('x'::text, '{21}')", "tags: one list of at most 20, none of them null"),
    ("tags", "'{{a,b},{c,d}}'", "tags: one list of at most 20, none of them null"),
    ("run_count", "1000000000000001", "run_count: from 0 to 10^15"),
    ("run_count", "-1", "run_count: from 0 to 10^15"),
    ("tags", "'{a,null}'", "tags: one list of at most 20, none of them null"),
    ("keep_runs", "0", "keep_runs: at least 1"),
    ("pause_after_failures", "0", "pause_after_failures: 1 to 1000, or null for never"),
    ("notify", "'{a,null}'", "notify: one list of at most 20, none of them null"),
    ("notify_on", "'{never}'", "notify_on: one list of failure, recovery, success"),
    ("notify_on", "'{null}'", "notify_on: one list of failure, recovery, success"),
    ("notify_on", "'{{failure}}'", "notify_on: one list of failure, recovery, success"),
    ("notify_after", "1001", "notify_after: 1 to 1000"),
    ("failures", "-1", "failures: at least 0"),
    ("outcome", "'cancelled'", "outcome: failure or success"),
    ("anchor_at", "now()", "anchor_at: only with interval_seconds"),
    *(
        (column, date, f"{column}: from the year 1900 to 9000")
        for column in (
            "run_at",
            "created_at",
            "updated_at",
            "applied_at",
            "next_run_at",
            "last_run_at",
        )
        for date in ("'infinity'", "'-infinity'", "'20000-01-01'", "'0044-03-15 BC'")
    ),
    *(
        (column, date, f"{column}: from the year 1900 to 9000, or infinity")
        for column in ("starts_at", "ends_at", "paused_until")
        for date in ("'20000-01-01'", "'0044-03-15 BC'")
    ),
    *(
        (column, value, f"{column}: {what}")
        for column in ("parameters", "job_variables")
        for what, value in (
            ("numbers of at most 64 bits", """'{"a": [{"b": 1e5000}]}'"""),
            ("numbers of at most 64 bits", """'{"a": -9223372036854775809}'"""),
            (
                "nested at most 64 deep",
                "('{\"a\":' || repeat('[', 65) || repeat(']', 65) || '}')::jsonb",
            ),
        )
    ),
]


@pytest.mark.parametrize(("column", "value", "constraint"), REFUSED)
async def test_what_no_column_may_hold_is_refused_by_name(sql, rows, column, value, constraint):
    await rows.tenant()
    values = {"tenant": "'acme'", "name": "'nightly'", "duty": "'workflow_run'", column: value}

    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await sql.execute(
            f"insert into definitions ({', '.join(values)}) values ({', '.join(values.values())})"
        )

    assert refused.value.constraint_name == constraint


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ("cron = '* * * * *', interval_seconds = 60", "cron, interval_seconds, run_at, after"),
        ("cron = '* * * * *', run_at = now()", "cron, interval_seconds, run_at, after"),
        ("cron = null, interval_seconds = 60, run_at = now()", "cron, interval_seconds, run_at"),
        ("after_seconds = 60", "cron, interval_seconds, run_at, after_seconds: at most one"),
        ("starts_at = now(), ends_at = now()", "ends_at: later than starts_at"),
        ("starts_at = now(), ends_at = now() - interval '1 s'", "ends_at: later than starts_at"),
        (
            "cron = null, interval_seconds = 60, anchor_at = 'infinity'",
            "anchor_at: from the year 1900 to 9000",
        ),
    ],
)
async def test_columns_that_contradict_each_other_are_refused(sql, nightly, columns, constraint):
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await sql.execute(f"update definitions set {columns}")

    assert refused.value.constraint_name.startswith(constraint)


@pytest.mark.parametrize("slug", ["'Acme'", "'a b'", "''", "'a-'", _long(64)])
async def test_a_tenant_that_is_no_slug_is_refused(sql, slug):
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await sql.execute(f"insert into tenants (slug) values ({slug})")

    assert refused.value.constraint_name == (
        "slug: lower-case letters, digits, single dashes; at most 63"
    )


async def test_every_check_is_tried(sql):
    checks = await sql.fetch(
        "select conname from pg_constraint where contype = 'c' and conrelid in "
        "('definitions'::regclass, 'tenants'::regclass)"
    )

    tried = {constraint for _, _, constraint in REFUSED}
    assert {row["conname"] for row in checks} - tried == {
        "slug: lower-case letters, digits, single dashes; at most 63",
        "cron, interval_seconds, run_at, after_seconds: at most one",
        "ends_at: later than starts_at",
        "anchor_at: from the year 1900 to 9000",
        "after_at: from the year 1900 to 9000",
        "suspended_at: from the year 1900 to 9000",
    }


async def test_json_at_its_limits_is_read_back_as_it_was(engine, sql, rows, nightly):
    deep: object = 9223372036854775807
    for _ in range(63):
        deep = [deep]
    await sql.execute(
        "update definitions set parameters = $1", json.dumps({"a": deep, "b": -0.5e-300})
    )

    [definition] = (await roster.read(engine)).definitions
    assert definition.parameters == {"a": deep, "b": -0.5e-300}


async def test_a_suspension_of_no_date_is_refused(sql, rows):
    await rows.tenant()

    with pytest.raises(asyncpg.CheckViolationError, match="suspended_at: from the year"):
        await sql.execute("update tenants set suspended_at = 'infinity'")


async def test_two_rows_of_one_name_are_refused(rows, nightly):
    with pytest.raises(asyncpg.UniqueViolationError) as refused:
        await rows.definition()

    assert refused.value.constraint_name == "name: unique in its tenant"


async def test_two_tenants_may_use_one_name(sql, rows, nightly):
    await rows.tenant("other")

    await rows.definition(tenant="other")

    assert await sql.fetchval("select count(*) from definitions where name = 'nightly'") == 2


async def test_a_definition_of_no_tenant_is_refused(rows):
    with pytest.raises(asyncpg.ForeignKeyViolationError, match="tenant"):
        await rows.definition(tenant="nobody")


@pytest.mark.parametrize("column", ["tenant", "name", "duty"])
async def test_what_a_definition_cannot_do_without_is_asked_for(sql, rows, column):
    await rows.tenant()
    values = {"tenant": "'acme'", "name": "'nightly'", "duty": "'workflow_run'"}
    del values[column]

    with pytest.raises(asyncpg.NotNullViolationError) as refused:
        await sql.execute(
            f"insert into definitions ({', '.join(values)}) values ({', '.join(values.values())})"
        )

    assert refused.value.column_name == column


async def test_json_that_is_none_is_refused(sql, rows):
    await rows.tenant()

    with pytest.raises(asyncpg.InvalidTextRepresentationError, match="json"):
        await sql.execute(
            "insert into definitions (tenant, name, duty, parameters) "
            "values ('acme', 'nightly', 'workflow_run', '{nonsense')"
        )


async def test_a_role_with_rights_on_definitions_alone_is_noted_too(sql, rows):
    await rows.tenant()
    await sql.execute("drop role if exists clerk")
    await sql.execute("create role clerk")
    try:
        await sql.execute("grant usage on schema public to clerk")
        await sql.execute("grant select, insert, update, delete on definitions, tenants to clerk")
        await sql.execute("delete from changes")
        await sql.execute("set role clerk; set search_path = pg_catalog")
        await sql.execute(
            "insert into public.definitions (tenant, name, duty) values ('acme', 'n', 'd')"
        )
        await sql.execute("update public.definitions set title = 'x'")
        await sql.execute("update public.tenants set suspended = true")
        await sql.execute("delete from public.definitions")
        await sql.execute("reset role; reset search_path")
        noted = await sql.fetch("select operation from changes order by id")
        assert [row["operation"] for row in noted] == ["insert", "update", "update", "delete"]
    finally:
        await sql.execute("reset role; reset search_path")
        await sql.execute("drop owned by clerk; drop role clerk")


async def test_a_tenant_that_gets_another_title_is_left_alone(sql, rows):
    await rows.tenant()
    await sql.execute("delete from changes")
    await sql.execute("update tenants set title = 'Acme Corporation'")
    assert await sql.fetchval("select count(*) from changes") == 0
