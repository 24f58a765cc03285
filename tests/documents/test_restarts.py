"""Runs that were killed, runs that overlap, and repositories that moved: the next run mends it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from itertools import combinations
from typing import Any

import pytest

from blocks.github_service import GitHub
from blocks.records import TenantRecords
from flows.indexing import Indexer, Project
from tests.documents.conftest import Site
from tests.github.conftest import serving
from tests.github.fake import TOKEN, Clock, FakeGitHub

README = "# Shop\n\nShop sells things to people.\n\n## Install\n\nUse the penguin installer.\n"
WITHDRAWN = "# Shop\n\nThe password of everybody is walrus.\n"
GUIDE = "# Guide\n\nA guide for everybody who wants to use it.\n"


async def test_withdrawn_text_is_not_found_after_a_run_that_was_killed_and_a_revert(
    site, index, sql
):
    await site.push("shop", {"README.md": README})
    await index()
    memory = await sql.fetchval("select value from checkpoints")
    await site.push("shop", {"README.md": WITHDRAWN})
    await index()
    # As if it had been killed before it wrote its checkpoint.
    await sql.execute("update checkpoints set value = $1", memory)
    assert len(await site.search("walrus")) == 1

    await site.push("shop", {"README.md": README})
    await index()

    assert await site.search("walrus") == []
    assert len(await site.search("penguin")) == 1
    summary = (await site.projects())["shop"]["summary"]
    assert summary == "Shop sells things to people. Use the penguin installer."
    assert await index() == {"projects": 1, "projects_unchanged": 1}


async def test_a_memory_of_the_old_form_leads_to_a_full_look(site, index, sql):
    await site.push("shop", {"README.md": README})
    await index()
    old = """jsonb_set(value::jsonb, '{blobs}', '{"README.md": "0a1b"}')"""
    await sql.execute(f"update checkpoints set value = {old}")

    assert (await index())["documents_unchanged"] == 1
    assert await index() == {"projects": 1, "projects_unchanged": 1}


async def test_a_summary_that_somebody_else_wrote_is_put_right(site, index, sql):
    await site.push("shop", {"README.md": README})
    await index()
    await sql.execute("update projects set summary = 'Something else.'")

    assert (await index())["summaries"] == 1
    assert (await site.projects())["shop"]["summary"].startswith("Shop sells things")
    assert await index() == {"projects": 1, "projects_unchanged": 1}


@pytest.mark.parametrize("what", ["repository", "branch"])
async def test_what_was_renamed_has_new_addresses_and_is_not_embedded_anew(
    site, index, embedder, server, sql, what
):
    await site.push("shop", {"README.md": README, "docs/a.md": GUIDE})
    await index(embedder)
    server.requests.clear()
    [repository] = site.github.repositories
    if what == "repository":
        where = "acme/store/blob/main"
        repository |= {"full_name": "acme/store", "html_url": "https://github.com/acme/store"}
        for path in ("README.md", "docs/a.md"):
            site.github.files["acme/store", path] = site.github.files.pop(("acme/shop", path))
    else:
        where = "acme/shop/blob/trunk"
        repository |= {"default_branch": "trunk"}
    await site.write(repository)

    counts = await index(embedder)

    assert counts == {"projects": 1, "documents_updated": 2}
    assert {row["uri"] for row in await site.rows()} == {
        f"https://github.com/{where}/README.md",
        f"https://github.com/{where}/docs/a.md",
    }
    assert (len(site.github.requests), server.requests) == (1, [])
    [found] = [one for one in await site.search("penguin") if "word" in one["by"]]
    assert found["uri"].startswith(f"https://github.com/{where}/")
    assert await sql.fetchval("select count(*) from chunk_vectors") == 3
    assert await index(embedder) == {"projects": 1, "projects_unchanged": 1}


# -- two runs at once


class Turns:
    """Lets the writes of two runs through in a given order, once both have read what they read."""

    def __init__(self, order: str) -> None:
        self._order = list(order)
        self._here: set[str] = set()
        self._moved = asyncio.Condition()

    async def take(self, whose: str, write: Awaitable[Any]) -> Any:
        async with self._moved:
            self._here.add(whose)
            self._moved.notify_all()
            await self._moved.wait_for(lambda: len(self._here) == 2 and self._order[0] == whose)
            try:
                return await write
            finally:
                self._order.pop(0)
                self._moved.notify_all()

    @property
    def over(self) -> bool:
        return not self._order


class Writer:
    """The records, as one of two runs sees them: each of its writes waits for its turn."""

    def __init__(self, records: TenantRecords, turns: Turns, whose: str) -> None:
        self._records, self._turns, self._whose = records, turns, whose

    def __getattr__(self, name: str) -> Any:
        if name not in ("put", "patch"):
            return getattr(self._records, name)
        return lambda *args, **named: self._turns.take(
            self._whose, getattr(self._records, name)(*args, **named)
        )


@pytest.fixture
async def earlier(clock: Clock) -> AsyncIterator[FakeGitHub]:
    """GitHub as it was when the first of two runs read it."""
    async with serving(FakeGitHub(clock)) as fake:
        yield fake


async def run(mine: Any, organization: GitHub, project: Project) -> None:
    async with organization.connected() as github:
        await Indexer(mine, github, None, logging.getLogger("tests.documents")).index([project], 1)


async def the_project(site: Site, name: str) -> Project:
    return Project.model_validate((await site.projects())[name])


async def test_in_whatever_order_an_old_and_a_new_run_write_the_next_one_mends_it(
    site, index, earlier
):
    old = GitHub(organization="acme", token=TOKEN, base_url=earlier.address)
    # Both write documents, the summary and the checkpoint; the new one deletes one as well.
    orders = [
        "".join("A" if at in a else "B" for at in range(7)) for a in combinations(range(7), 3)
    ]
    async with site.rota.of(site.house) as mine:
        for order in orders:
            await site.push(order, {"README.md": README, "docs/gone.md": GUIDE})
            await run(mine, site.organization, await the_project(site, order))
            await site.push(order, {"README.md": WITHDRAWN, "docs/old.md": GUIDE})
            earlier.files = dict(site.github.files)
            first = await the_project(site, order)
            files = {"README.md": README + "Everybody is welcome here.\n", "docs/new.md": GUIDE}
            await site.push(order, {**files, "docs/gone.md": None, "docs/old.md": None})
            second = await the_project(site, order)
            turns = Turns(order)
            await asyncio.gather(
                run(Writer(mine, turns, "A"), old, first),
                run(Writer(mine, turns, "B"), site.organization, second),
            )
            assert turns.over

    await index()

    assert await site.search("walrus") == []
    summaries = {one["summary"] for one in (await site.projects()).values()}
    assert summaries == {
        "Shop sells things to people. Use the penguin installer. Everybody is welcome here."
    }
    expected = ["README.md", "docs/new.md"] * len(orders)
    assert sorted(await site.documents()) == sorted(expected)
    assert await index() == {"projects": len(orders), "projects_unchanged": len(orders)}
