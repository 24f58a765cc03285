import asyncio
import json
import logging
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.projects import Item
from blocks.github_answers import read_page
from blocks.github_service import (
    GitHub,
    GitHubAnswerUnusable,
    GitHubRefused,
    GitHubUnavailable,
)
from flows.github_listing import Memory, SeenPage
from flows.github_sync import item_of, summary
from flows.lists import LaterList, MassChange
from tests.github.fake import BROKEN, CUT, TOKEN, Answer

SPEC = b"owner: payments\n"


@pytest.fixture
def shop(fake):
    """A repository with a spec and a README."""
    fake.files["acme/shop", ".project-spec.yaml"] = SPEC
    fake.files["acme/shop", "README.md"] = b"# Shop\n\nSells things.\n"
    return fake.add("shop")


def listings(fake):
    return [request for request in fake.requests if request.path.endswith("/repos")]


def read(fake):
    return [request.path for request in fake.requests if request.path.startswith("/repos/")]


async def test_a_repository_becomes_a_project_with_what_its_files_say(sync, fake, shop, projects):
    counts = await sync()

    found = (await projects())["shop"]
    wanted = {
        "source": "127.0.0.1:acme",
        "repository_id": shop["id"],
        "full_name": "acme/shop",
        "description": "The shop.",
        "topics": ["python"],
        "default_branch": "main",
        "visibility": "private",
        "archived": False,
        "url": "https://github.com/acme/shop",
        "status": "active",
        "spec": {"owner": "payments"},
        "spec_problem": None,
        "summary": "Sells things.",
    }
    assert {name: found[name] for name in wanted} == wanted
    assert found["content_pushed_at"] == found["pushed_at"]
    assert counts == {"repositories": 1, "created": 1, "read": 1}


async def test_all_pages_are_read(sync, fake, projects):
    for number in range(250):
        fake.add(f"r-{number}", pushed_at=None)

    counts = await sync()

    assert len(await projects()) == 250
    assert counts == {"repositories": 250, "created": 250}
    assert [request.query["page"] for request in listings(fake)] == ["1", "2", "3"]


async def test_a_thousand_unchanged_repositories_cost_ten_requests(sync, fake, projects):
    for number in range(1000):
        fake.add(f"r-{number}")
    await sync()
    fake.requests.clear()

    counts = await sync()

    assert len(fake.requests) == 10
    # The last page is read whole: if another were added after it, it would not change.
    assert [request.status for request in fake.requests] == [304] * 9 + [200]
    assert counts == {"repositories": 1000, "unchanged": 100}


async def test_as_an_app_they_cost_two_more(sync, fake, app, projects):
    for number in range(1000):
        fake.add(f"r-{number}", pushed_at=None)
    block = GitHub(**app)
    await sync(block=block)
    fake.requests.clear()

    await sync(block=block)

    assert len(fake.requests) == 12


async def test_a_page_that_is_added_after_a_full_one_is_found(sync, fake, projects):
    for number in range(100):
        fake.add(f"r-{number}", pushed_at=None)
    await sync()
    fake.add("late", pushed_at=None)

    await sync()

    assert len(await projects()) == 101


async def test_a_renamed_repository_stays_the_same_project(sync, fake, shop, projects):
    await sync()
    before = (await projects())["shop"]
    shop.update(name="store", full_name="acme/store", topics=["go"], default_branch="trunk")

    counts = await sync()

    after = await projects()
    assert list(after) == ["store"]
    assert after["store"]["id"] == before["id"]
    assert (after["store"]["topics"], after["store"]["default_branch"]) == (["go"], "trunk")
    assert counts == {"repositories": 1, "updated": 1}


async def test_a_repository_that_is_archived_at_github_is_archived_here(sync, fake, shop, projects):
    await sync()
    shop["archived"] = True
    await sync()
    assert (await projects())["shop"]["status"] == "archived"

    shop["archived"] = False
    await sync()

    assert (await projects())["shop"]["status"] == "active"


async def test_a_missing_repository_is_archived_after_three_runs_and_comes_back(
    sync, fake, shop, projects
):
    fake.add("tools")
    await sync()
    gone = fake.remove("tools")

    seen = []
    for _ in range(3):
        counts = await sync()
        tools = (await projects())["tools"]
        seen.append((tools["status"], tools["missing_cycles"], counts.get("gone", 0)))
    fake.repositories.append(gone)
    counts = await sync()

    assert seen == [("missing", 1, 0), ("missing", 2, 0), ("archived", 3, 1)]
    assert counts["returned"] == 1
    assert (await projects())["tools"]["status"] == "active"


async def test_a_run_that_is_tried_again_counts_nothing_twice(sync, fake, shop, projects):
    fake.add("tools", pushed_at="2026-11-20T11:00:00Z")
    await sync()
    fake.remove("tools")
    shop["pushed_at"] = "2026-11-21T09:00:00Z"
    fake.fail("project-spec", Answer(401, {"message": "Bad credentials"}))

    with pytest.raises(GitHubRefused, match="401"):
        await sync(cycle="noon")
    broken = await projects()
    await sync(cycle="noon")
    mended = await projects()

    assert [one["tools"]["missing_cycles"] for one in (broken, mended)] == [1, 1]
    assert broken["shop"]["content_pushed_at"] < mended["shop"]["content_pushed_at"]
    assert mended["shop"]["content_pushed_at"] == mended["shop"]["pushed_at"]


@pytest.mark.parametrize("failure", [[BROKEN] * 30, [CUT] * 30, [Answer(403, {"message": "No"})]])
async def test_a_page_that_fails_marks_nothing(sync, fake, projects, failure):
    for number in range(150):
        fake.add(f"r-{number}", pushed_at=None)
    await sync()
    before = await projects()
    fake.remove("r-7")
    fake.fail("page=2", *failure)

    with pytest.raises((GitHubUnavailable, GitHubRefused)):
        await sync(deadline_seconds=60)

    assert await projects() == before


async def test_a_repository_that_slips_between_two_pages_is_not_missing(sync, fake, projects):
    for number in range(150):
        fake.add(f"r-{number}", pushed_at=None)
    await sync()
    for one in fake.repositories:
        one["description"] = "Changed."
    # What stood first on the second page moves to the first, which has been read by then.
    fake.before(lambda request: fake.remove("r-0") if request.query.get("page") == "2" else None)

    await sync()

    found = await projects()
    assert [name for name, one in found.items() if one["status"] != "active"] == []
    assert found["r-100"]["status"] == "active"


async def test_an_empty_page_that_the_one_before_promises_is_believed_by_nobody(
    sync, fake, projects
):
    for number in range(250):
        fake.add(f"r-{number}", pushed_at=None)
    await sync()
    before = await projects()
    fake.fail("[?&]page=3", Answer(document=[]))

    with pytest.raises(GitHubAnswerUnusable, match=r"page 3 .* is empty"):
        await sync()
    assert await projects() == before
    # So it is where the whole page fits no project.
    for one in fake.repositories[100:200]:
        one["visibility"] = "odd"
    await sync()
    assert {one["status"] for one in (await projects()).values()} == {"active"}


async def test_a_page_that_is_gone_is_no_longer_promised(sync, fake, projects):
    for number in range(201):
        fake.add(f"r-{number}", pushed_at=None)
    await sync()
    fake.remove("r-200")

    # The page before it has not changed, and what is remembered of it promises another.
    await sync()
    counts = await sync()

    assert (await projects())["r-200"]["missing_cycles"] == 2
    assert counts["repositories"] == 200


async def test_many_that_are_not_on_the_list_but_there_are_held_back(sync, fake, projects):
    for number in range(150):
        fake.add(f"r-{number}", pushed_at=None)
    await sync()
    before = await projects()
    fake.fail("[?&]page=1", Answer(document=fake.repositories[:80]))

    with pytest.raises(GitHubAnswerUnusable, match=r"lacks 70 repositories.*'r-\d+' is there"):
        await sync()
    assert await projects() == before

    del fake.repositories[80:140]
    fake.requests.clear()
    assert (await sync())["missing"] == 60
    assert len([one for one in fake.asked if "/repositories/" in one]) == 10


async def test_files_are_read_only_after_a_push(sync, fake, shop, projects):
    await sync()
    assert read(fake) == ["/repos/acme/shop/contents/.project-spec.yaml", "/repos/acme/shop/readme"]
    fake.requests.clear()
    fake.files["acme/shop", ".project-spec.yaml"] = b"owner: search\n"

    shop["description"] = "Another."
    await sync()
    assert read(fake) == []

    shop["pushed_at"] = "2026-11-21T09:00:00Z"
    counts = await sync()
    # The project has a summary by now.
    assert read(fake) == ["/repos/acme/shop/contents/.project-spec.yaml"]
    assert (await projects())["shop"]["spec"] == {"owner": "search"}
    assert counts == {"repositories": 1, "updated": 1, "read": 1}


async def test_a_bad_spec_is_a_problem_and_leaves_the_last_good_one(sync, fake, shop, projects):
    await sync()
    fake.files["acme/shop", ".project-spec.yaml"] = b"- no mapping\n"
    shop["pushed_at"] = "2026-11-21T09:00:00Z"
    counts = await sync()
    bad = (await projects())["shop"]
    fake.files.pop(("acme/shop", ".project-spec.yaml"))
    shop["pushed_at"] = "2026-11-21T10:00:00Z"
    await sync()
    none = (await projects())["shop"]

    assert bad["spec_problem"] == ".project-spec.yaml: It is no mapping of names to values."
    assert (bad["spec"], counts["bad_specs"]) == ({"owner": "payments"}, 1)
    assert (none["spec"], none["spec_problem"]) == (None, None)


async def test_a_spec_that_is_too_large_is_a_problem(sync, fake, shop, projects):
    fake.files["acme/shop", ".project-spec.yaml"] = b"a: " + b"x" * 70_000

    await sync()

    assert "larger than 65,536 bytes" in (await projects())["shop"]["spec_problem"]


async def test_files_that_cannot_be_read_hinder_no_other(sync, fake, shop, projects):
    fake.add("closed")
    fake.fail("closed/contents", Answer(451, {"message": "Repository access blocked"}))

    counts = await sync()

    found = await projects()
    assert (found["closed"]["content_pushed_at"], found["shop"]["spec"]) == (
        None,
        {"owner": "payments"},
    )
    assert (counts["read"], counts["unread"]) == (1, 1)


async def test_a_project_that_is_deleted_while_its_files_are_read_hinders_no_other(
    sync, fake, shop, projects, sql
):
    fake.add("tools")

    async def delete(request):
        if "/tools/" in request.path:
            await sql.execute("delete from projects where name = 'tools'")

    fake.before(delete)
    counts = await sync()

    assert list(await projects()) == ["shop"]
    assert (counts["read"], counts["unread"]) == (1, 1)


async def test_what_was_not_read_in_time_is_read_by_the_next_run(
    sync, fake, projects, clock, caplog
):
    for number in range(20):
        fake.add(f"r-{number}")
    fake.before(lambda request: setattr(clock, "now", clock.now + 1))

    with pytest.raises(GitHubUnavailable, match="the 20 s that all calls may take"):
        await sync(deadline_seconds=20)
    first = [one for one in (await projects()).values() if one["content_pushed_at"]]
    counts = await sync()

    assert 4 <= len(first) <= 12
    assert counts["read"] == 20 - len(first)
    assert "projects are still to be read" in caplog.text


async def test_a_slow_run_does_not_undo_what_a_later_one_has_written(
    sync, fake, shop, projects, rota, tenant
):
    fake.add("tools", pushed_at=None)
    await sync()
    arrived, released = asyncio.Event(), asyncio.Event()

    async def hold(request):
        if request.path == "/repositories/1002":  # it has its list by then
            arrived.set()
            await released.wait()

    tools = fake.remove("tools")
    fake.before(hold)
    slow = asyncio.create_task(sync())
    await arrived.wait()
    fake.before(lambda request: None)
    fake.repositories.append(tools)
    shop.update(name="store", full_name="acme/store")
    await sync()
    async with rota.of(tenant) as mine:
        remembered = await mine.get("checkpoints", "github_sync/127.0.0.1:acme")
        released.set()
        with pytest.raises(LaterList, match=r"later list of 127\.0\.0\.1:acme was written"):
            await slow
        assert await mine.get("checkpoints", "github_sync/127.0.0.1:acme") == remembered

    found = await projects()
    assert {name: one["status"] for name, one in found.items()} == {
        "store": "active",
        "tools": "active",
    }


async def test_what_does_not_fit_is_named_and_its_project_is_not_missing(
    sync, fake, shop, projects, caplog
):
    odd = fake.add("odd", pushed_at=None)
    await sync()
    odd["visibility"] = "secret"
    for _ in range(4):
        counts = await sync()

    assert (await projects())["odd"]["status"] == "active"
    assert (counts["unfit"], counts.get("missing")) == (1, None)
    assert "'acme/odd' is left out, it does not fit: visibility" in caplog.text


async def test_of_many_that_do_not_fit_some_are_named_and_the_others_counted(sync, fake, caplog):
    for number in range(30):
        fake.add(f"r-{number}", visibility="odd")

    counts = await sync()

    assert counts["unfit"] == 30
    assert caplog.text.count("does not fit") == 20
    assert "and 10 more such lines" in caplog.text


async def test_an_entry_without_an_id_keeps_everything_from_being_missing(
    sync, fake, shop, projects, caplog
):
    fake.add("tools", pushed_at=None)
    await sync()
    fake.remove("tools")
    fake.repositories.append({"name": "mystery"})

    await sync()

    assert (await projects())["tools"]["status"] == "active"
    assert "no usable id" in caplog.text


async def test_an_empty_list_is_held_back_unless_it_is_allowed(sync, fake, projects):
    for number in range(12):
        fake.add(f"r-{number}", pushed_at=None)
    await sync()
    fake.repositories.clear()

    with pytest.raises(MassChange, match=r"held back.*mass-change.*12 of the 12.*credentials"):
        await sync()
    held = await projects()
    counts = await sync(allow_mass_change=True)

    assert {one["status"] for one in held.values()} == {"active"}
    assert counts["missing"] == 12


async def test_a_project_that_was_deleted_here_is_made_again(sync, fake, shop, projects, sql):
    await sync()
    await sql.execute("delete from projects")

    counts = await sync()

    assert counts == {"repositories": 1, "created": 1, "read": 1}


async def test_a_rate_limit_in_the_middle_is_waited_out(sync, fake, clock, projects):
    for number in range(250):
        fake.add(f"r-{number}", pushed_at=None)
    fake.remaining, fake.reset = 5, fake.now + timedelta(seconds=500)

    await sync()

    assert len(await projects()) == 250
    assert {request.status for request in fake.requests} == {200}
    assert clock.sleeps == [501]


async def test_nothing_that_is_logged_holds_the_token(sync, fake, shop, caplog, projects):
    # Below that, the HTTP client tells each header.
    caplog.set_level(logging.INFO)
    fake.fail(
        "repos",
        Answer(502, {"message": f"upstream refused {TOKEN}"}),
        Answer(503, {"message": "Busy"}, headers={f"X {TOKEN}": "no header"}),
        Answer(503, headers={"Retry-After": TOKEN, "Date": TOKEN}),
    )
    fake.add(f"r-{TOKEN}", pushed_at=None)
    fake.add("odd", full_name=f"{'x' * 85}{TOKEN}")
    fake.add("branch", default_branch=TOKEN)
    fake.files["acme/branch", ".project-spec.yaml"] = f"{TOKEN}: !!binary x".encode()
    moved = Answer(301, {"message": TOKEN}, headers={"Location": f"/{TOKEN}"})
    fake.fail("shop/contents", moved)

    await sync()

    assert caplog.text.count("trying again") == 3
    assert "does not fit" in caplog.text
    assert "files of shop were not read" in caplog.text
    assert TOKEN not in caplog.text
    assert TOKEN[:12] not in caplog.text
    assert TOKEN not in str(await projects())


TEXT = st.text(max_size=300) | st.text("ab\0\ud800/ ", max_size=20) | st.none()


@given(
    st.fixed_dictionaries(
        {"id": st.integers(-5, 2**64), "name": TEXT, "full_name": st.just("acme/x") | TEXT},
        optional={
            "description": TEXT,
            "topics": st.lists(TEXT, max_size=5) | st.none(),
            "default_branch": TEXT,
            "visibility": st.sampled_from(["public", "internal", "odd", None]),
            "archived": st.booleans() | TEXT,
            "pushed_at": st.datetimes().map(lambda at: f"{at.isoformat()}Z") | TEXT,
            "html_url": TEXT,
        },
    )
)
@settings(deadline=None)
def test_what_fits_the_model_fits_the_api(entry):
    found = read_page(json.dumps([entry]).encode())

    assert found is not None
    repositories, misfits = found
    assert len(repositories) + len(misfits) == 1
    for one in repositories:
        Item(**json.loads(json.dumps(item_of(one))))


async def test_projects_are_read_whatever_the_size_of_their_specs(projects, sql, tenant):
    await sql.execute(
        "insert into projects (tenant, name, spec, summary) select $1, 'p' || number, "
        "jsonb_build_object('a', repeat('x', 261000)), repeat('x', 65536) "
        "from generate_series(1, 150) number",
        tenant,
    )

    assert len(await projects()) == 150


def test_what_is_remembered_has_a_bound():
    pages = [SeenPage(etag=f'"{n}"', ids=[10**9] * 100, last=False) for n in range(400)]

    fitting = Memory(pages=pages).within(250 << 10)

    assert 150 < len(fitting.pages) < 400
    assert len(fitting.model_dump_json()) < 250 << 10
    assert Memory.of(fitting.model_dump()) == fitting
    assert Memory.of({"pages": [{"etag": 1}]}) == Memory.of(None) == Memory()


def test_the_summary_tells_what_is_worth_telling():
    counts = {"repositories": 12, "created": 1, "unchanged": 11, "gone": 2, "requests": 3}

    assert summary("github:acme", counts) == (
        "12 repositories in github:acme: 1 new, 2 archived; 3 requests."
    )
