"""Lists: numbered pages with totals, and pages that go on from a row while rows come and go."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

NAMES = [f"n{number:02}" for number in range(25)]


@pytest.fixture
async def many(acme: str, sql: asyncpg.Connection) -> list[str]:
    """Makes definitions, some of them within one instant; returns their names in order."""
    for some in (NAMES[::2], NAMES[1::2]):
        await sql.execute(
            "insert into definitions (tenant, name, duty) select $1, unnest($2::text[]), 'x'",
            acme,
            some,
        )
    return NAMES


@pytest.fixture
def in_order(acme: str, sql: asyncpg.Connection) -> Callable[[str], Awaitable[list[str]]]:
    """Gives what reads all names in an order, by plain SQL."""
    columns = {"name": "name", "created": "created_at desc, id desc"}

    async def read(order: str) -> list[str]:
        rows = await sql.fetch(
            f"select name from definitions where tenant = $1 order by {columns[order]}", acme
        )
        return [row["name"] for row in rows]

    return read


def _names(page: dict[str, Any]) -> list[str]:
    return [one["name"] for one in page["items"]]


# -- numbered


async def test_a_list_comes_in_numbered_pages_by_itself(
    api: Any, definitions: str, many: list[str]
) -> None:
    page = (await api.get(definitions, "viewer")).json()
    assert _names(page) == many
    said = {key: value for key, value in page.items() if key != "items"}
    assert said == {
        "page": 1,
        "page_size": 30,
        "total": 25,
        "pages": 1,
        "limit": None,
        "next": None,
        "previous": None,
    }


async def test_numbered_pages_are_followed_by_their_links_both_ways(
    api: Any, definitions: str, many: list[str]
) -> None:
    seen, where, pages = [], f"{definitions}?page_size=10", []
    while where:
        page = (await api.get(where)).json()
        assert (page["total"], page["pages"], page["page_size"]) == (25, 3, 10)
        seen += _names(page)
        pages.append(page)
        where = page["next"]
    assert seen == many
    assert [page["page"] for page in pages] == [1, 2, 3]
    back = (await api.get(pages[2]["previous"])).json()
    assert back == pages[1]
    assert pages[0]["previous"] is None


async def test_a_page_beyond_the_last_is_empty_and_says_how_many_there_are(
    api: Any, definitions: str, many: list[str]
) -> None:
    page = (await api.get(definitions, params={"page": 7, "page_size": 10})).json()
    assert (page["items"], page["total"], page["pages"]) == ([], 25, 3)
    assert page["next"] is None


async def test_an_empty_list_is_a_list(api: Any, definitions: str) -> None:
    page = (await api.get(definitions)).json()
    assert (page["items"], page["total"], page["pages"]) == ([], 0, 0)
    page = (await api.get(definitions, params={"limit": 3})).json()
    assert (page["items"], page["next"], page["previous"]) == ([], None, None)


async def test_the_kinds_of_pages_do_not_mix(api: Any, definitions: str) -> None:
    for query in (
        {"page": 1, "limit": 2},
        {"page_size": 1, "after": "WyJhIl0"},
        {"after": "WyJhIl0", "before": "WyJhIl0"},
        {"page": 0},
        {"page_size": 201},
        {"limit": 0},
        {"limit": 201},
        {"page": "x"},
        {"order": "size"},
        {"status": "gone"},
        {"q": "x" * 64},
    ):
        assert (await api.get(definitions, params=query)).status_code == 422, query


# -- from a row on


@pytest.mark.parametrize("order", ["name", "created"])
async def test_a_list_is_read_forwards_and_back_again(
    api: Any, definitions: str, many: list[str], in_order: Any, order: str
) -> None:
    expected = await in_order(order)
    for limit in (1, 4, 24, 25, 26, 200):
        seen: list[str] = []
        last: dict[str, Any] = {"next": f"{definitions}?order={order}&limit={limit}"}
        while last["next"]:
            last = (await api.get(last["next"])).json()
            assert (last["limit"], last["page"], last["total"]) == (limit, None, None)
            seen += _names(last)
        assert seen == expected
        seen = _names(last)
        while last["previous"]:
            last = (await api.get(last["previous"])).json()
            seen = _names(last) + seen
        assert seen == expected


@pytest.mark.parametrize("order", ["name", "created"])
@pytest.mark.parametrize("direction", ["next", "previous"])
async def test_pages_stay_right_while_rows_come_and_go_between_them(
    api: Any,
    acme: str,
    definitions: str,
    many: list[str],
    in_order: Any,
    sql: asyncpg.Connection,
    order: str,
    direction: str,
) -> None:
    rng = random.Random(f"{order} {direction}")
    where = f"{definitions}?order={order}&limit=3"
    if direction == "previous":
        # From the end of the list: after its last row, and then backwards.
        page = (await api.get(where)).json()
        while page["next"]:
            page = (await api.get(page["next"])).json()
    else:
        page = (await api.get(where)).json()
    ever = set(many)
    stayed = set(many)
    seen: list[str] = []
    number = 0
    while True:
        seen = seen + _names(page) if direction == "next" else _names(page) + seen
        if not page[direction]:
            break
        # The row that the next page begins at goes too, now and then, and one after it comes.
        for gone in {rng.choice(sorted(ever)), seen[-1 if direction == "next" else 0]}:
            await sql.execute("delete from definitions where name = $1", gone)
            stayed.discard(gone)
        for _ in range(2):
            number += 1
            came = f"n{rng.randrange(25):02}-{number}"
            ever.add(came)
            await sql.execute(
                "insert into definitions (tenant, name, duty) values ($1, $2, 'workflow_run')",
                acme,
                came,
            )
        page = (await api.get(page[direction])).json()
    assert len(seen) == len(set(seen)), "a row has been shown twice"
    assert stayed - set(seen) == set(), "a row has been passed over"
    remaining = [name for name in await in_order(order) if name in seen]
    assert [name for name in seen if name in remaining] == remaining


async def test_a_page_goes_on_where_it_was_though_its_rows_are_gone(
    api: Any, definitions: str, many: list[str], sql: asyncpg.Connection
) -> None:
    page = (await api.get(definitions, params={"limit": 5})).json()
    await sql.execute("delete from definitions where name = any($1)", many[:5])
    after = (await api.get(page["next"])).json()
    assert _names(after) == many[5:10]
    before = (await api.get(after["previous"])).json()
    assert before["items"] == []


async def test_links_keep_the_filters(api: Any, definitions: str, many: list[str]) -> None:
    for query in ({"limit": 2}, {"page_size": 2}):
        page = (await api.get(definitions, params={**query, "q": "n1", "order": "created"})).json()
        seen = _names(page)
        while page["next"]:
            assert "q=n1" in page["next"]
            page = (await api.get(page["next"])).json()
            seen += _names(page)
        assert sorted(seen) == many[10:20]


# -- what is asked for


@pytest.fixture
async def various(
    api: Any, definitions: str, a_definition: Any, sql: asyncpg.Connection, pool: str
) -> None:
    """Makes a definition in each state."""
    for name in ("a-sync", "b-sync", "c-report", "d-report", "e"):
        await api.post(definitions, json=a_definition(name))
    await sql.execute("update definitions set deployment_id = gen_random_uuid()")
    await sql.execute("update definitions set deployment_id = null where name = 'b-sync'")
    await sql.execute("update definitions set enabled = false where name = 'c-report'")
    await sql.execute(
        "update definitions set paused_until = now() + interval '1 day' where name = 'd-report'"
    )
    await sql.execute(
        "update definitions set problem = 'duty: gone', duty = 'other' where name = 'e'"
    )


@pytest.mark.usefixtures("various")
async def test_a_list_is_narrowed_by_each_of_its_filters(
    api: Any, acme: str, definitions: str
) -> None:
    for query, expected in (
        ({"q": "sync"}, ["a-sync", "b-sync"]),
        ({"q": "SYNC"}, ["a-sync", "b-sync"]),
        ({"q": "-"}, ["a-sync", "b-sync", "c-report", "d-report"]),
        ({"q": ""}, ["a-sync", "b-sync", "c-report", "d-report", "e"]),
        ({"q": "%"}, []),
        ({"q": "_"}, []),
        ({"q": "\\"}, []),
        ({"q": "a%c"}, []),
        ({"q": "a_sync"}, []),
        ({"q": "'"}, []),
        ({"q": "a\0"}, []),
        ({"duty": "other"}, ["e"]),
        ({"duty": "othe"}, []),
        ({"duty": "a\0"}, []),
        ({"enabled": "false"}, ["c-report"]),
        ({"enabled": "true", "q": "r"}, ["d-report"]),
        ({"status": "active"}, ["a-sync"]),
        ({"status": "waiting"}, ["b-sync"]),
        ({"status": "paused"}, ["c-report", "d-report"]),
        ({"status": "problem"}, ["e"]),
        ({"status": "suspended"}, []),
        ({"status": "paused", "q": "d", "duty": "workflow_run"}, ["d-report"]),
    ):
        page = (await api.get(definitions, params=query)).json()
        assert _names(page) == expected, query
        assert page["total"] == len(expected), query
        keyed = (await api.get(definitions, params={**query, "limit": 10})).json()
        assert keyed["items"] == page["items"], query
    await api.post(f"/tenants/{acme}/suspend", json={})
    page = (await api.get(definitions, params={"status": "suspended"})).json()
    assert _names(page) == ["a-sync", "b-sync", "c-report", "d-report"]
    assert page["total"] == 4


@pytest.mark.usefixtures("various")
async def test_the_state_that_a_list_shows_is_that_of_the_definition_itself(
    api: Any, acme: str, definitions: str
) -> None:
    for _ in range(2):
        for one in (await api.get(definitions)).json()["items"]:
            assert (await api.get(f"{definitions}/{one['name']}")).json() == one
        await api.post(f"/tenants/{acme}/suspend", json={})


@pytest.mark.usefixtures("various")
async def test_the_figures_count_the_same_states(api: Any, acme: str) -> None:
    states = {"problem": 1, "suspended": 0, "paused": 2, "waiting": 1, "active": 1}
    assert (await api.get("/stats", f"viewer@{acme}")).json()["states"] == states
    await api.post(f"/tenants/{acme}/suspend", json={})
    states = {"problem": 1, "suspended": 4, "paused": 0, "waiting": 0, "active": 0}
    assert (await api.get("/stats", f"viewer@{acme}")).json()["states"] == states


async def test_the_newest_come_first_by_creation(
    api: Any, definitions: str, a_definition: Any
) -> None:
    for name in ("b", "c", "a"):
        await api.post(definitions, json=a_definition(name))
    page = (await api.get(definitions, params={"order": "created"})).json()
    assert _names(page) == ["a", "c", "b"]


async def test_a_list_is_of_one_tenant(
    api: Any, definitions: str, many: list[str], sql: asyncpg.Connection
) -> None:
    await sql.execute("insert into tenants (slug) values ('other')")
    await sql.execute(
        "insert into definitions (tenant, name, duty) values ('other', 'n99', 'workflow_run')"
    )
    for query in ({}, {"limit": 100}, {"order": "created"}, {"q": "n"}):
        page = (await api.get(definitions, params=query)).json()
        assert sorted(_names(page)) == many


# -- the other lists


async def test_tenants_are_listed_by_slug_both_ways(api: Any, sql: asyncpg.Connection) -> None:
    slugs = [f"t{number}" for number in range(7)]
    await sql.executemany("insert into tenants (slug) values ($1)", [(one,) for one in slugs])
    for query in ({"page_size": 3}, {"limit": 3}):
        page = (await api.get("/tenants", params=query)).json()
        seen = [one["slug"] for one in page["items"]]
        while page["next"]:
            page = (await api.get(page["next"])).json()
            seen += [one["slug"] for one in page["items"]]
        assert seen == slugs
        page = (await api.get(page["previous"])).json()
        assert [one["slug"] for one in page["items"]] == slugs[3:6]
    for q, expected in (("T1", ["t1"]), ("%", []), ("_", []), ("t", slugs)):
        page = (await api.get("/tenants", params={"q": q})).json()
        assert [one["slug"] for one in page["items"]] == expected
        assert page["total"] == len(expected)


async def test_tenants_stay_right_while_they_come_and_go(api: Any, sql: asyncpg.Connection) -> None:
    await sql.execute("insert into tenants (slug) select 't' || n from generate_series(1, 6) n")
    page = (await api.get("/tenants", params={"limit": 2})).json()
    await sql.execute("delete from tenants where slug in ('t1', 't2')")
    await sql.execute("insert into tenants (slug) values ('t0'), ('t2-5')")
    page = (await api.get(page["next"])).json()
    assert [one["slug"] for one in page["items"]] == ["t2-5", "t3"]


async def test_the_audit_is_listed_with_the_latest_first_both_ways(
    api: Any, acme: str, sql: asyncpg.Connection
) -> None:
    for number in range(9):
        await api.put(f"/tenants/{acme}", json={"title": str(number)})
    query = {"kind": "tenant", "tenant": acme}
    total = await sql.fetchval("select count(*) from audit where kind = 'tenant'")
    for paging in ({"page_size": 4}, {"limit": 4}):
        page = (await api.get("/audit", params=query | paging)).json()
        assert page["total"] in (None, total)
        ids = [one["id"] for one in page["items"]]
        await api.put(f"/tenants/{acme}", json={"title": "meanwhile"})  # comes before them all
        total += 1
        while page["next"]:
            page = (await api.get(page["next"])).json()
            ids += [one["id"] for one in page["items"]]
        expected = len(ids) == total - 1 if "limit" in paging else len(set(ids)) >= total - 1
        assert expected
        assert ids == sorted(ids, reverse=True)


async def test_the_audit_is_narrowed_by_each_of_its_filters(
    api: Any, acme: str, definitions: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    await sql.execute("delete from audit")
    await api.post(definitions, "editor", json=a_definition())
    middle = await sql.fetchval("select clock_timestamp()")
    await api.put(f"/tenants/{acme}", json={"title": "x"})
    for query, expected in (
        ({"who": "editor"}, ["definition"]),
        ({"who": "nobody"}, []),
        ({"kind": "tenant"}, ["tenant"]),
        ({"name": "nightly"}, ["definition"]),
        ({"tenant": acme, "kind": "definition"}, ["definition"]),
        ({"tenant": "other"}, []),
        ({"kind": "definition", "since": middle.isoformat()}, []),
        ({"kind": "definition", "until": middle.isoformat()}, ["definition"]),
        ({"kind": "tenant", "until": middle.isoformat()}, []),
        ({"tenant": "a\0"}, []),
    ):
        for paging in ({}, {"limit": 5}):
            page = (await api.get("/audit", params=query | paging)).json()
            assert [one["kind"] for one in page["items"]] == expected, query
            assert page["total"] in (None, len(expected))


async def test_readers_are_not_kept_waiting_by_who_writes(
    api: Any, definitions: str, many: list[str], sql: asyncpg.Connection
) -> None:
    await api.token("admin")
    async with sql.transaction():
        await sql.execute("update definitions set title = 'x'")
        async with asyncio.timeout(10):
            assert (await api.get(definitions)).json()["total"] == len(many)
            assert (await api.get(f"{definitions}/n00")).json()["title"] is None
