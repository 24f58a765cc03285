"""The audit: every write of a user's, whoever makes it, in the transaction of the write."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from deployments.entry import Entry
from store import loading, tokens
from store.loading import TenantRows
from store.models import Definition, Tenant
from store.writing import writing


async def audited(sql: asyncpg.Connection) -> list[dict[str, Any]]:
    """Takes the rows that there are, the oldest first."""
    rows = await sql.fetch(
        "with gone as (delete from audit returning *) select * from gone order by id"
    )
    return [
        dict(row) | {side: json.loads(row[side]) if row[side] else None for side in SIDES}
        for row in rows
    ]


SIDES = ("before", "after")


def brief(rows: list[dict[str, Any]]) -> list[tuple[str, str, str | None, str | None]]:
    return [(one["operation"], one["kind"], one["tenant"], one["name"]) for one in rows]


@pytest.fixture
async def quiet(sql, rows, nightly):
    """Makes `acme/nightly`, whose audit has been read; returns its id."""
    await audited(sql)
    return nightly


# -- what is written


async def test_an_insert_is_audited_with_what_there_is_now(sql, rows):
    before = datetime.now(UTC) - timedelta(minutes=1)
    await rows.tenant()
    await rows.definition()

    tenant, definition = await audited(sql)

    assert brief([tenant, definition]) == [
        ("insert", "tenant", "acme", None),
        ("insert", "definition", "acme", "nightly"),
    ]
    assert (tenant["before"], definition["before"]) == (None, None)
    assert tenant["after"]["slug"] == "acme"
    assert definition["after"]["cron"] == "0 3 * * *"
    assert before < tenant["at"] <= definition["at"]


async def test_an_update_is_audited_with_what_there_was_and_is(sql, quiet):
    await sql.execute("update definitions set cron = '0 4 * * *', tags = '{a}'")

    [one] = await audited(sql)

    assert brief([one]) == [("update", "definition", "acme", "nightly")]
    changed = {
        key: (one["before"][key], one["after"][key])
        for key in one["after"]
        if one["before"][key] != one["after"][key]
    }
    assert changed.pop("updated_at")
    assert changed == {"cron": ("0 3 * * *", "0 4 * * *"), "tags": ([], ["a"])}


async def test_a_delete_is_audited_with_what_there_was(sql, quiet):
    await sql.execute("delete from definitions")

    [one] = await audited(sql)

    assert brief([one]) == [("delete", "definition", "acme", "nightly")]
    assert one["before"]["id"] == str(quiet)
    assert one["after"] is None


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("definitions", ["definition"]),
        ("tokens", ["token"]),
        (
            "tenants cascade",
            "action definition job setting step_template tenant token".split(),
        ),
    ],
)
async def test_a_truncated_table_is_audited_once(sql, quiet, table, expected):
    await sql.execute(f"truncate {table}")

    written = await audited(sql)

    assert sorted(brief(written)) == [("truncate", kind, None, None) for kind in expected]
    assert {one["who"] for one in written} == {"postgres"}


async def test_what_goes_with_its_tenant_is_audited_too(engine, sql, quiet):
    await tokens.create(engine, "ci", "editor", "acme")
    await audited(sql)

    await sql.execute("delete from tenants")

    assert sorted(brief(await audited(sql)), key=str) == [
        ("delete", "definition", "acme", "nightly"),
        ("delete", "tenant", "acme", None),
        ("delete", "token", "acme", "ci"),
    ]


async def test_a_suspension_is_audited(sql, quiet):
    await sql.execute("update tenants set suspended = true, suspended_reason = 'bill'")

    [one] = await audited(sql)

    assert brief([one]) == [("update", "tenant", "acme", None)]
    assert (one["before"]["suspended"], one["after"]["suspended"]) == (False, True)


@pytest.mark.parametrize(
    "statement",
    [
        "update definitions set cron = cron, parameters = parameters",
        "update tenants set title = title",
        "update definitions set problem = 'cron: no', next_run_at = now(), run_count = 7, "
        "deployment_id = gen_random_uuid(), fingerprint = 'f', applied_at = now(), "
        "last_run_at = now(), last_status = 'Completed'",
        "update tokens set last_used_at = now()",
    ],
)
async def test_what_is_no_change_of_a_users_is_not_audited(engine, sql, quiet, statement):
    await tokens.create(engine, "ci", "editor")
    await audited(sql)

    await sql.execute(statement)

    assert await audited(sql) == []


async def test_rotas_own_columns_are_never_in_it(sql, quiet):
    await sql.execute("update definitions set problem = 'x', title = 'A'")
    await sql.execute("delete from definitions")

    update, delete = await audited(sql)

    own = {"deployment_id", "fingerprint", "applied_at", "problem", "next_run_at", "last_run_at"}
    own |= {"last_status", "run_count", "failures", "outcome", "after_at", "revision"}
    columns = {column.key for column in Definition.__table__.columns}
    assert update["before"].keys() == update["after"].keys() == columns - own
    assert delete["before"].keys() == columns - own


async def test_a_token_is_audited_without_its_hash(engine, sql):
    _, token = await tokens.create(engine, "ci", "viewer", who="ops")
    await sql.execute("update tokens set role = 'admin'")
    await tokens.revoke(engine, token.id, who="ops")

    made, raised, revoked = await audited(sql)

    assert brief([made, raised, revoked]) == [
        ("insert", "token", None, "ci"),
        ("update", "token", None, "ci"),
        ("delete", "token", None, "ci"),
    ]
    assert [one["who"] for one in (made, raised, revoked)] == ["ops", "postgres", "ops"]
    assert (raised["before"]["role"], raised["after"]["role"]) == ("viewer", "admin")
    for one in (made["after"], raised["before"], raised["after"], revoked["before"]):
        assert "hash" not in one
        assert one["id"] == str(token.id)


# -- by whom


async def test_who_writes_by_sql_is_known_by_their_session(sql, rows):
    await rows.tenant()
    await sql.execute("drop role if exists auditor; create role auditor login")
    try:
        await sql.execute("grant all on all tables in schema public to auditor")
        await sql.execute("set session authorization auditor")
        await sql.execute("insert into tenants (slug) values ('other')")
        await sql.execute("reset session authorization")
        assert [one["who"] for one in await audited(sql)] == ["postgres", "auditor"]
    finally:
        await sql.execute("reset session authorization")
        await sql.execute("drop owned by auditor; drop role auditor")


async def test_who_writes_in_somebodys_name_is_known_by_it(engine, sql):
    async with writing(engine, "ci") as session:
        session.add(Tenant(slug="acme"))
    async with writing(engine) as session:  # on the same connection of the pool
        session.add(Tenant(slug="other"))

    assert [one["who"] for one in await audited(sql)] == ["ci", "postgres"]


async def test_a_role_without_rights_on_the_audit_is_audited(sql, rows):
    await rows.tenant()
    await sql.execute("drop role if exists clerk_of_audit; create role clerk_of_audit")
    try:
        await sql.execute("grant insert on definitions to clerk_of_audit")
        await sql.execute("set role clerk_of_audit")
        await sql.execute("insert into definitions (tenant, name, duty) values ('acme', 'n', 'd')")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await sql.execute("delete from audit")
        await sql.execute("reset role")
        assert brief(await audited(sql))[-1] == ("insert", "definition", "acme", "n")
    finally:
        await sql.execute("reset role")
        await sql.execute("drop owned by clerk_of_audit; drop role clerk_of_audit")


async def test_a_roster_is_written_in_somebodys_name(engine, sql):
    values = Entry(name="a", duty="d").values
    rows = [TenantRows("acme", {"a": values})]

    await loading.load(engine, rows, prune=False, dry_run=False, who="ci")

    assert {one["who"] for one in await audited(sql)} == {"ci"}
    assert await sql.fetchval("select created_by from definitions") == "ci"
    await loading.load(
        engine, [TenantRows("acme", {"b": values})], prune=True, dry_run=False, who=None
    )
    assert await sql.fetchval("select created_by from definitions") == "postgres"


# -- in one transaction


async def test_what_is_rolled_back_is_not_audited(sql, quiet):
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("delete from definitions")
    assert await sql.fetchval("select count(*) from audit") == 1
    await transaction.rollback()

    assert await audited(sql) == []


async def test_a_write_that_is_refused_later_is_not_audited(engine, sql):
    rows = [TenantRows("acme", {}), TenantRows("not a slug", {})]

    with pytest.raises(IntegrityError):
        await loading.load(engine, rows, prune=False, dry_run=False, who="ci")

    assert await audited(sql) == []


async def test_a_dry_run_is_not_audited(engine, sql):
    rows = [TenantRows("acme", {"a": Entry(name="a", duty="d").values})]

    await loading.load(engine, rows, prune=False, dry_run=True, who="ci")

    assert await audited(sql) == []


async def test_no_write_without_its_audit(sql, quiet):
    await sql.execute("alter table audit add constraint full_up check (id < 0)")

    with pytest.raises(asyncpg.CheckViolationError):
        await sql.execute("update definitions set title = 'x'")

    assert await sql.fetchval("select title from definitions") is None


# -- what is read from it


async def test_delete_requests_say_who_deleted_what(engine, sql, quiet):
    await sql.execute("update definitions set title = 'Nightly'")
    async with writing(engine, "ops") as session:
        await session.execute(text("delete from definitions"))
    await sql.execute("delete from tenants")

    [one] = await sql.fetch("select * from delete_requests")

    assert (one["who"], one["tenant"], one["name"]) == ("ops", "acme", "nightly")
    assert json.loads(one["definition"])["title"] == "Nightly"
    assert one["at"] is not None


async def test_revisions_count_what_users_change(sql, quiet):
    async def revision() -> int:
        return await sql.fetchval("select revision from definitions")

    assert await revision() == 1
    await sql.execute("update definitions set title = 'a'")
    assert await revision() == 2
    await sql.execute("update definitions set title = 'a', run_count = 3, problem = 'p'")
    assert await revision() == 2
    await sql.execute('update definitions set inputs = \'[{"name": "x"}]\', revision = 40')
    assert await revision() == 3
