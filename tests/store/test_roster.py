from datetime import UTC, datetime
from uuid import uuid4

import pytest

from store import roster


@pytest.fixture
async def three(rows):
    """Makes `acme/a`, `acme/b` and `zoo/a`; returns their ids by address."""
    await rows.tenant("zoo")
    await rows.tenant("acme")
    return {
        "zoo/a": await rows.definition("a", "zoo"),
        "acme/b": await rows.definition("b", "acme"),
        "acme/a": await rows.definition("a", "acme"),
    }


def _references(found: roster.Roster) -> list[str]:
    return [definition.reference for definition in found.definitions]


async def test_everything_is_read_in_order(engine, sql, three):
    found = await roster.read(engine)

    assert _references(found) == ["acme/a", "acme/b", "zoo/a"]
    assert found.suspended == frozenset()
    assert found.instance == await sql.fetchval(
        "select value #>> '{}' from marks where name = 'instance'"
    )


async def test_every_database_is_an_instance_of_its_own(engine, template):
    from store import database

    async with database.opened(template) as other:
        assert (await roster.read(engine)).instance != (await roster.read(other)).instance


async def test_single_definitions_are_read_by_their_ids(engine, three):
    found = await roster.read(engine, [three["acme/b"], uuid4()])

    assert _references(found) == ["acme/b"]


async def test_whole_tenants_are_read_beside_single_definitions(engine, three):
    found = await roster.read(engine, [three["acme/b"]], ["zoo"])

    assert _references(found) == ["acme/b", "zoo/a"]


async def test_asked_for_none_none_is_read(engine, three):
    assert _references(await roster.read(engine, [])) == []


async def test_suspended_tenants_are_told_even_of_definitions_that_are_not_read(engine, sql, three):
    await sql.execute("update tenants set suspended = true where slug = 'zoo'")

    found = await roster.read(engine, [three["acme/a"]])

    assert found.suspended == {"zoo"}


async def test_more_ids_are_asked_for_than_a_query_takes_parameters(engine, three):
    found = await roster.read(engine, [uuid4() for _ in range(40_000)] + [three["zoo/a"]])

    assert _references(found) == ["zoo/a"]


async def test_columns_come_back_as_python_speaks_of_them(engine, sql, nightly):
    await sql.execute(
        "update definitions set parameters = '{\"a\": [1, 2.5, null]}', tags = '{x,y}', "
        "starts_at = '2026-11-21 12:00+02', timeout_seconds = 90"
    )

    [one] = (await roster.read(engine)).definitions
    assert one.id == nightly
    assert one.parameters == {"a": [1, 2.5, None]}
    assert one.tags == ["x", "y"]
    assert one.starts_at == datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert one.starts_at.utcoffset() is not None
    assert one.timeout_seconds == 90


async def test_infinities_come_back_aware(engine, sql, nightly):
    await sql.execute(
        "update definitions set starts_at = '-infinity', ends_at = 'infinity', "
        "paused_until = 'infinity'"
    )

    [one] = (await roster.read(engine)).definitions
    assert one.starts_at == datetime.min.replace(tzinfo=UTC)
    assert one.ends_at == one.paused_until == datetime.max.replace(tzinfo=UTC)


async def test_a_definition_is_found_by_its_address(engine, three):
    found = await roster.find(engine, "zoo/a")

    assert found is not None
    assert found.id == three["zoo/a"]


@pytest.mark.parametrize("reference", ["zoo/b", "a", "", "/", "zoo.a", "zoo/a/b"])
async def test_an_address_of_nothing_finds_nothing(engine, three, reference):
    assert await roster.find(engine, reference) is None


async def test_all_addresses_are_told_in_order(engine, three):
    assert await roster.references(engine) == ["acme/a", "acme/b", "zoo/a"]
