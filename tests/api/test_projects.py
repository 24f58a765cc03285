"""Projects: what sweeps of a source find, what becomes missing, and what comes back."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

SOURCE = "github:acme"
PUSHED = "2026-03-01T07:00:00Z"

Sweep = Callable[..., Awaitable[Any]]


def item(number: int, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """Returns a project as its source has it."""
    return {"repository_id": number, "name": name or f"p{number}", **fields}


@pytest.fixture
def projects(acme: str) -> str:
    """The path of the tenant's projects."""
    return f"/tenants/{acme}/projects"


@pytest.fixture
def sweep(api: Any, projects: str) -> Sweep:
    """Gives what writes a sweep, and returns the answer; a 200 as what became of each project."""

    async def write(*items: dict[str, Any], who: str = "worker", **fields: Any) -> Any:
        body = {"source": SOURCE, "projects": list(items), **fields}
        answer = await api.put(projects, who, json=body)
        found = answer.json()
        return {name: made for name, made in found.items() if made} if answer.is_success else answer

    return write


@pytest.fixture
def rows(api: Any, projects: str) -> Callable[..., Awaitable[dict[str, dict[str, Any]]]]:
    """Gives what returns the tenant's projects by name."""

    async def read(**params: Any) -> dict[str, dict[str, Any]]:
        found = (await api.get(projects, "viewer", params=params)).json()["items"]
        return {one["name"]: one for one in found}

    return read


async def test_a_sweep_that_comes_after_a_later_one_is_refused_as_a_whole(
    sweep: Any, rows: Any
) -> None:
    earlier, later = "2026-03-01T08:00:00Z", "2026-03-01T09:00:00Z"
    await sweep(item(1, "shop"), listed_at=earlier)
    await sweep(item(1, "store"), item(2), present=[1, 2], listed_at=later)

    answer = await sweep(item(1, "shop"), present=[1], listed_at=earlier)
    again = await sweep(item(2), present=[1, 2], listed_at=later)

    assert answer.status_code == 409
    [fault] = answer.json()["errors"]
    assert fault["field"] == "listed_at"
    assert "2026-03-01T08:00:00+00:00" in fault["detail"]
    assert "2026-03-01T09:00:00+00:00" in fault["detail"]
    assert again == {"unchanged": ["p2"]}
    found = await rows()
    assert {name: one["status"] for name, one in found.items()} == {
        "store": "active",
        "p2": "active",
    }


async def test_a_later_sweep_of_another_source_hinders_none(sweep: Any) -> None:
    await sweep(item(1), source="github:globex", listed_at="2026-03-01T09:00:00Z")

    assert await sweep(item(2), listed_at="2026-03-01T08:00:00Z") == {"created": ["p2"]}


async def test_a_project_is_created_and_read(api: Any, projects: str, sweep: Any) -> None:
    said = item(
        1,
        "shop",
        full_name="acme/shop",
        description="The web shop",
        topics=["python"],
        default_branch="main",
        visibility="private",
        pushed_at="2026-03-01T08:00:00+01:00",
        url="https://github.com/acme/shop",
    )
    assert await sweep(said) == {"created": ["shop"]}
    (listed,) = (await api.get(projects)).json()["items"]
    found = (await api.get(f"{projects}/{listed['id']}", "worker")).json()
    assert found == listed
    assert {name: found[name] for name in said} == {
        **said,
        "pushed_at": "2026-03-01T07:00:00Z",
    }
    assert (found["source"], found["status"], found["archived"]) == (SOURCE, "active", False)
    assert (found["missing_cycles"], found["spec"], found["summary"]) == (0, None, None)


async def test_a_second_sweep_changes_nothing_but_when_it_was_seen(sweep: Any, rows: Any) -> None:
    said = item(1, topics=["a", "b"], pushed_at=PUSHED)
    await sweep(said)
    before = (await rows())["p1"]
    assert await sweep(said) == {"unchanged": ["p1"]}
    after = (await rows())["p1"]
    assert after.pop("last_seen_at") > before.pop("last_seen_at")
    assert after == before


async def test_what_an_item_leaves_out_stays_as_it_is(sweep: Any, rows: Any) -> None:
    await sweep(item(1, topics=["a"], description="Old", url="https://x"))
    assert await sweep(item(1, description=None)) == {"updated": ["p1"]}
    found = (await rows())["p1"]
    assert (found["topics"], found["description"], found["url"]) == (["a"], None, "https://x")


async def test_a_renamed_repository_stays_the_same_project(sweep: Any, rows: Any) -> None:
    await sweep(item(1, "old"))
    before = (await rows())["old"]
    assert await sweep(item(1, "new")) == {"updated": ["new"]}
    found = await rows()
    assert found.keys() == {"new"}
    assert found["new"]["id"] == before["id"]


async def test_two_names_can_be_swapped_and_two_projects_can_have_one_name(
    sweep: Any, api: Any, projects: str
) -> None:
    await sweep(item(1, "a"), item(2, "b"))
    assert await sweep(item(1, "b"), item(2, "a")) == {"updated": ["b", "a"]}
    assert await sweep(item(3, "a")) == {"created": ["a"]}
    found = (await api.get(projects)).json()["items"]
    assert sorted((one["name"], one["repository_id"]) for one in found) == [
        ("a", 2),
        ("a", 3),
        ("b", 1),
    ]


async def test_a_project_that_has_no_repository_yet_is_linked_by_its_name(
    sweep: Any, rows: Any, acme: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "insert into projects (tenant, name, status) values ($1, 'shop', 'discovered')", acme
    )
    assert await sweep(item(7, "shop")) == {"updated": ["shop"]}
    found = (await rows())["shop"]
    assert (found["repository_id"], found["source"]) == (7, SOURCE)
    assert found["status"] == "discovered"


async def test_a_provider_is_the_same_in_whatever_case(sweep: Any, rows: Any) -> None:
    await sweep(item(1, "a"))
    assert await sweep(item(1, "a"), source="GitHub:acme") == {"unchanged": ["a"]}
    assert (await rows(source="GITHUB:acme"))["a"]["source"] == SOURCE
    assert await rows(source="github:Acme") == {}


async def test_an_id_of_another_provider_is_another_project(sweep: Any) -> None:
    assert await sweep(item(1, "a")) == {"created": ["a"]}
    assert await sweep(item(1, "b"), source="gitlab:acme") == {"created": ["b"]}


async def test_a_repository_that_moves_to_another_owner_is_not_missing(
    sweep: Any, rows: Any
) -> None:
    await sweep(item(1), item(2))
    assert await sweep(source="github:globex", present=[1]) == {}
    assert await sweep(item(2), present=[]) == {"unchanged": ["p2"]}
    assert (await rows())["p1"]["source"] == "github:globex"


# -- missing


async def test_what_is_not_present_is_missing_and_after_three_sweeps_archived(
    sweep: Any, rows: Any
) -> None:
    await sweep(item(1), item(2))
    assert await sweep(present=[1], cycle="a") == {"missing": ["p2"]}
    assert await sweep(present=[1], cycle="b") == {"missing": ["p2"]}
    found = (await rows())["p2"]
    assert (found["status"], found["missing_cycles"]) == ("missing", 2)
    assert await sweep(present=[1], cycle="c") == {"gone": ["p2"]}
    found = (await rows())["p2"]
    assert (found["status"], found["missing_cycles"], found["archived"]) == ("archived", 3, False)
    assert await sweep(present=[1], cycle="d") == {}
    assert (await rows())["p1"]["status"] == "active"


async def test_a_sweep_that_is_sent_again_counts_once(sweep: Any, rows: Any) -> None:
    await sweep(item(1))
    for _ in range(4):
        assert await sweep(present=[], cycle="a") == {"missing": ["p1"]}
    assert (await rows())["p1"]["missing_cycles"] == 1
    for count in (2, 3):  # without a name, each counts
        await sweep(present=[])
        assert (await rows())["p1"]["missing_cycles"] == count


async def test_a_sweep_that_is_sent_again_after_another_counts_once(
    sweep: Any, rows: Any, sql: asyncpg.Connection
) -> None:
    await sweep(item(1))
    for cycle in ("a", "b", "a", "b", "a"):
        assert await sweep(present=[], cycle=cycle) == {"missing": ["p1"]}
    assert (await rows())["p1"]["missing_cycles"] == 2
    await sweep(present=[1])
    assert await sql.fetchval("select missed_in from projects") == []


async def test_of_the_sweeps_that_missed_a_project_the_last_thousand_are_known(
    sweep: Any, sql: asyncpg.Connection
) -> None:
    await sweep(item(1))
    await sql.execute(
        "update projects set status = 'missing', missing_cycles = 1000, "
        "missed_in = array(select 'c' || number from generate_series(1, 1000) as number)"
    )
    await sweep(present=[], cycle="new", archive_after=1000)
    missed = await sql.fetchval("select missed_in from projects")
    assert (len(missed), missed[0], missed[-1]) == (1000, "c2", "new")


async def test_without_present_nothing_becomes_missing(sweep: Any) -> None:
    await sweep(item(1), item(2))
    assert await sweep(item(1)) == {"unchanged": ["p1"]}


async def test_what_is_among_the_items_is_present(sweep: Any) -> None:
    await sweep(item(1), item(2))
    assert await sweep(item(1), present=[2]) == {"unchanged": ["p1"]}


@pytest.mark.parametrize("as_item", [True, False])
@pytest.mark.parametrize("cycles", [1, 3])
async def test_what_was_missing_or_archived_for_it_is_active_when_it_is_back(
    sweep: Any, rows: Any, as_item: bool, cycles: int
) -> None:
    await sweep(item(1))
    for _ in range(cycles):
        await sweep(present=[])
    assert (await rows())["p1"]["status"] == ("missing" if cycles == 1 else "archived")
    if as_item:
        assert await sweep(item(1)) == {"updated": ["p1"], "returned": ["p1"]}
    else:
        assert await sweep(present=[1]) == {"returned": ["p1"]}
    found = (await rows())["p1"]
    assert (found["status"], found["missing_cycles"]) == ("active", 0)


async def test_one_that_is_archived_at_its_source_is_archived_and_never_missing(
    sweep: Any, rows: Any
) -> None:
    await sweep(item(1, archived=True), item(2))
    assert (await rows())["p1"]["status"] == "archived"
    assert await sweep(item(2, archived=True)) == {"updated": ["p2"]}
    assert await sweep(present=[]) == {}
    assert await sweep(item(1, archived=False)) == {"updated": ["p1"]}
    assert (await rows())["p1"]["status"] == "active"


async def test_one_that_somebody_has_archived_stays_so(
    api: Any, projects: str, sweep: Any, rows: Any
) -> None:
    await sweep(item(1))
    path = f"{projects}/{(await rows())['p1']['id']}"
    assert (await api.patch(path, "editor", json={"status": "archived"})).status_code == 200
    assert await sweep(item(1, archived=False), present=[1]) == {"unchanged": ["p1"]}
    assert (await rows())["p1"]["status"] == "archived"


@pytest.mark.parametrize("first", [True, False])
async def test_one_that_somebody_has_archived_stays_so_when_its_source_has_archived_it_too(
    api: Any, projects: str, sweep: Any, rows: Any, first: bool
) -> None:
    await sweep(item(1, archived=not first))
    path = f"{projects}/{(await rows())['p1']['id']}"
    assert (await api.patch(path, "editor", json={"status": "archived"})).status_code == 200
    for archived in (True, False):
        await sweep(item(1, archived=archived))
        assert (await rows())["p1"]["status"] == "archived"


async def test_another_source_s_projects_are_not_missing(sweep: Any) -> None:
    await sweep(item(1), source="github:globex")
    await sweep(item(2))
    assert await sweep(present=[2]) == {}


async def test_half_of_a_source_may_become_missing_and_more_may_not(
    sweep: Any, rows: Any, sql: asyncpg.Connection
) -> None:
    await sweep(*map(item, range(1, 11)))
    assert await sweep(present=list(range(1, 6))) == {
        "missing": ["p10", "p6", "p7", "p8", "p9"],
    }
    await sweep(present=list(range(1, 11)))
    refused = await sweep(item(1, "renamed"), present=[1, 2, 3, 4])
    assert refused.status_code == 409
    assert refused.json()["detail"] == (
        "mass-change: 6 of the 10 projects of github:acme that are there would become "
        "missing at once, and nothing was written. If they are gone, say allow_mass_change."
    )
    assert [one["field"] for one in refused.json()["errors"]] == ["allow_mass_change"]
    found = await rows()
    assert {one["status"] for one in found.values()} == {"active"}
    assert "renamed" not in found
    allowed = await sweep(present=[1, 2, 3, 4], allow_mass_change=True)
    assert len(allowed["missing"]) == 6


async def test_few_may_become_missing_however_many_they_are_of(sweep: Any) -> None:
    await sweep(*map(item, range(1, 5)))
    assert len((await sweep(present=[]))["missing"]) == 4


async def test_what_is_archived_already_does_not_count_as_a_part_of_the_source(sweep: Any) -> None:
    archived = [item(number, archived=True) for number in range(100, 150)]
    await sweep(*archived, *map(item, range(1, 6)))
    assert (await sweep(present=[])).status_code == 409


async def test_what_is_missing_already_does_not_count_as_a_part_of_the_source(sweep: Any) -> None:
    await sweep(*map(item, range(1, 16)))
    await sweep(present=[*range(1, 6), *range(11, 16)])
    assert len((await sweep(present=list(range(1, 6))))["missing"]) == 10
    assert (await sweep(present=[])).status_code == 409


async def test_people_are_told_of_what_becomes_missing_and_archived_once(
    sweep: Any, acme: str, sql: asyncpg.Connection
) -> None:
    await sweep(item(1, "a"), item(2, "b"), item(3, "c"))
    for cycle in ("a", "a", "b", "b", "c", "c", "d"):
        await sweep(present=[3], cycle=cycle)
    found = await sql.fetch(
        "select kind, severity, subject, text from notices where tenant = $1 order by id", acme
    )
    assert [tuple(one) for one in found] == [
        (
            "project_missing",
            "warning",
            "2 projects are missing: a, b",
            "github:acme no longer has a, b.",
        ),
        (
            "project_archived",
            "critical",
            "2 projects are archived: a, b",
            "github:acme no longer has a, b. That was so in 3 sweeps, so Rota has archived them.",
        ),
    ]


# -- at once


async def test_sweeps_at_once_make_each_project_once(sweep: Any, rows: Any) -> None:
    items = [item(number) for number in range(1, 40)]
    written = await asyncio.gather(*(sweep(*items) for _ in range(5)))
    assert sorted(map(str, written)) == sorted(
        [str({"created": [one["name"] for one in items]})]
        + [str({"unchanged": [one["name"] for one in items]})] * 4
    )
    assert len(await rows(limit=200)) == len(items)


async def test_a_cycle_that_is_written_twice_at_once_counts_once(sweep: Any, rows: Any) -> None:
    await sweep(item(1))
    await asyncio.gather(*(sweep(present=[], cycle="a") for _ in range(5)))
    assert (await rows())["p1"]["missing_cycles"] == 1


async def test_a_thousand_projects_are_written_at_once(sweep: Any) -> None:
    items = [item(number) for number in range(1, 1001)]
    assert len((await sweep(*items))["created"]) == 1000
    assert len((await sweep(*items))["unchanged"]) == 1000
    refused = await sweep(*items, item(2000))
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "projects"


# -- what does not fit


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "projects.1.name"),
        ({"name": "a\0"}, "projects.1.name"),
        ({"visibility": "secret"}, "projects.1.visibility"),
        ({"pushed_at": "2026-03-01T07:00:00"}, "projects.1.pushed_at"),
        ({"topics": ["a", None]}, "projects.1.topics.1"),
        ({"archived": None}, "projects.1.archived"),
        ({"repository_id": 0}, "projects.1.repository_id"),
        ({"repository_id": 2**63}, "projects.1.repository_id"),
        ({"stars": 7}, "projects.1.stars"),
        ({"repository_id": 1}, "projects.1.repository_id"),
    ],
)
async def test_an_item_that_does_not_fit_refuses_them_all_and_is_named(
    sweep: Any, rows: Any, fields: dict[str, Any], named: str
) -> None:
    refused = await sweep(item(1), {**item(2), **fields})
    assert refused.status_code == 422
    assert [one["field"] for one in refused.json()["errors"]] == [named]
    assert await rows() == {}


async def test_a_body_of_very_many_unknown_fields_is_refused_with_one_fault(sweep: Any) -> None:
    refused = await sweep(**{f"f{number}": 0 for number in range(100)})
    assert refused.status_code == 422
    (fault,) = refused.json()["errors"]
    assert "102 fields; there are source, projects" in fault["detail"]
    refused = await sweep(item(1, **{f"f{number}": 0 for number in range(100)}))
    assert [one["field"] for one in refused.json()["errors"]] == ["projects.0"]


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "github acme"},
        {"source": ""},
        {"archive_after": 0},
        {"present": ["1"]},
        {"cycle": "x" * 201},
        {"prune": True},
    ],
)
async def test_a_sweep_that_does_not_fit_is_refused(sweep: Any, fields: dict[str, Any]) -> None:
    refused = await sweep(**fields)
    assert refused.status_code == 422
    (named,) = fields
    assert refused.json()["errors"][0]["field"].startswith(named)


async def test_a_viewer_reads_and_does_not_write(api: Any, projects: str, sweep: Any) -> None:
    assert (await sweep(item(1), who="viewer")).status_code == 403
    assert (await api.patch(f"{projects}/{uuid4()}", "viewer", json={})).status_code == 403
    assert (await api.get(projects, "viewer")).json()["items"] == []


async def test_a_tenant_that_is_not_there_has_no_projects(api: Any) -> None:
    body = {"source": SOURCE, "projects": []}
    assert (await api.put("/tenants/nobody/projects", json=body)).status_code == 404
    assert (await api.get("/tenants/nobody/projects")).status_code == 404
    assert (await api.get("/tenants/nobody/projects?limit=3")).status_code == 404


async def test_a_project_of_another_tenant_is_not_there(
    api: Any, acme: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("insert into tenants (slug) values ('other')")
    found: UUID = await sql.fetchval(
        "insert into projects (tenant, name) values ('other', 'x') returning id"
    )
    path = f"/tenants/{acme}/projects/{found}"
    assert (await api.get(path)).status_code == 404
    assert (await api.patch(path, json={"summary": "Mine"})).status_code == 404
    assert (await api.get(f"{path}/documents")).status_code == 404
    assert (await api.put(f"{path}/documents", json={"documents": []})).status_code == 404
    assert await sql.fetchval("select summary from projects where id = $1", found) is None


# -- lists


async def test_projects_are_listed_by_name_and_filtered(
    api: Any, projects: str, sweep: Any, rows: Any
) -> None:
    await sweep(item(1, "shop"), item(2, "Shop-API"), item(3, "a_b", archived=True))
    await sweep(item(4, "tool"), source="gitlab:acme")
    assert (await rows()).keys() == {"a_b", "shop", "Shop-API", "tool"}
    assert list(await rows(source="github:acme", status="active")) == ["Shop-API", "shop"]
    assert (await rows(q="SHOP")).keys() == {"shop", "Shop-API"}
    assert (await rows(q="_")).keys() == {"a_b"}
    assert (await rows(status="archived")).keys() == {"a_b"}
    assert (await rows(source="gitlab:acme")).keys() == {"tool"}
    assert await rows(q="\0") == {}


async def test_pages_of_projects_of_one_name_leave_none_out(
    api: Any, projects: str, sweep: Any
) -> None:
    await sweep(*(item(number, "same") for number in range(1, 8)), item(9, "zoo"))
    seen, path = [], f"{projects}?limit=3"
    while path:
        page = (await api.get(path)).json()
        seen += [one["repository_id"] for one in page["items"]]
        path = page["next"]
    assert sorted(seen) == [*range(1, 8), 9]
    last = (await api.get(f"{projects}?limit=3")).json()
    back = (await api.get((await api.get(last["next"])).json()["previous"])).json()
    assert back["items"] == last["items"]


@pytest.mark.parametrize("cursor", ["WyJhIl0", "WyJhIiwiYiJd", "WzEsMl0", "e30"])
async def test_a_position_that_is_none_is_refused(api: Any, projects: str, cursor: str) -> None:
    refused = await api.get(projects, params={"after": cursor})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "after"


# -- what the files say


async def test_what_the_files_say_is_kept_beside_what_sweeps_write(
    api: Any, projects: str, sweep: Any, rows: Any
) -> None:
    await sweep(item(1))
    path = f"{projects}/{(await rows())['p1']['id']}"
    said = {
        "spec": {"name": "shop", "ports": [80, 443.5, None, True]},
        "spec_problem": "ports: too many",
        "summary": "Sells things.",
        "content_pushed_at": PUSHED,
    }
    changed = (await api.patch(path, "worker", json=said)).json()
    assert {name: changed[name] for name in said} == said
    await sweep(item(1, description="New"))
    found = (await rows())["p1"]
    assert {name: found[name] for name in said} == said
    nothing = (await api.patch(path, json={"spec": None, "summary": None})).json()
    assert (nothing["spec"], nothing["summary"]) == (None, None)
    assert nothing["spec_problem"] == said["spec_problem"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"spec": []}, "spec"),
        ({"spec": {"a": 2**64}}, "spec"),
        ({"spec": {"a": "x" * (256 * 1024)}}, "spec"),
        ({"spec": {"a": "\0"}}, "spec"),
        ({"status": None}, "status"),
        ({"status": "lost"}, "status"),
        ({"name": "new"}, "name"),
        ({"content_pushed_at": "yesterday"}, "content_pushed_at"),
    ],
)
async def test_a_change_that_does_not_fit_is_refused(
    api: Any, projects: str, sweep: Any, rows: Any, body: dict[str, Any], named: str
) -> None:
    await sweep(item(1))
    path = f"{projects}/{(await rows())['p1']['id']}"
    refused = await api.patch(path, json=body)
    assert refused.status_code == 422
    assert [one["field"] for one in refused.json()["errors"]] == [named]


async def test_the_largest_spec_is_taken(api: Any, projects: str, sweep: Any, rows: Any) -> None:
    await sweep(item(1))
    path = f"{projects}/{(await rows())['p1']['id']}"
    spec = {"lines": ["é" * 100] * 1200}
    assert (await api.patch(path, json={"spec": spec})).json()["spec"] == spec


async def test_a_project_that_is_not_there_is_said_so(api: Any, projects: str) -> None:
    missing = uuid4()
    answer = await api.get(f"{projects}/{missing}")
    assert answer.status_code == 404
    assert answer.json()["detail"] == f"There is no project {missing} of this tenant."
    assert (await api.get(f"{projects}/shop")).status_code == 422
