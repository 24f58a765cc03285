import asyncio
import logging

import pytest

from blocks.embedders import EmbedderRefused, OpenAIEmbedder
from blocks.github_answers import GitHubUnavailable
from tests.documents.embeddings import KEY
from tests.github.fake import TOKEN, Answer

README = "# Shop\n\nShop sells things to people.\n\n## Install\n\nUse the penguin installer.\n"
GUIDE = "# Guide\n\nA guide for the walrus and everybody else who wants to use it.\n"


async def vectors(sql) -> int:
    return await sql.fetchval("select count(*) from chunk_vectors")


async def test_documents_are_found_by_their_words_with_the_place(site, index):
    await site.push("shop", {"README.md": README, "docs/a/guide.md": GUIDE})
    await site.push("site", {".project-spec.yaml": "x: 1\n", "README.md": "# Site\n\nHi.\n"})

    counts = await index()

    assert counts == {"projects": 2, "documents_created": 4, "chunks": 5, "summaries": 1}
    [found] = await site.search("penguin")
    assert (found["path"], found["heading"]) == ("README.md", "Shop > Install")
    assert (found["start_line"], found["end_line"]) == (5, 7)
    assert found["uri"] == "https://github.com/acme/shop/blob/main/README.md"
    [found] = await site.search("walrus")
    assert found["path"] == "docs/a/guide.md"


async def test_documents_are_the_readme_the_docs_and_the_spec(site, index):
    text = "# One\n\ntext\n"
    await site.push("shop")
    taken = ["README.rst", "readme", ".project-spec.yaml", "docs/a.md", "docs/b/c d/e.MD"]
    left = ["README.py", "src/README.md", "docs/a.txt", "other/docs/a.md", "mydocs/a.md", "docs.md"]
    for path in taken + left:
        site.put("shop", path, text)

    await index()
    assert sorted(await site.documents()) == sorted(taken)


async def test_nothing_is_asked_about_a_project_that_nobody_pushed_to(
    site, index, embedder, server
):
    await site.push("shop", {"README.md": README})
    await index(embedder)
    server.requests.clear()

    counts = await index(embedder)

    assert counts == {"projects": 1, "projects_unchanged": 1}
    assert (site.github.requests, server.requests) == ([], [])


async def test_a_push_to_something_else_costs_one_request(site, index, embedder, server):
    await site.push("shop", {"README.md": README})
    await index(embedder)
    server.requests.clear()
    await site.push("shop", {"main.py": "print()"})

    counts = await index(embedder)

    assert counts == {"projects": 1, "documents_unchanged": 1}
    assert site.github.asked == ["GET /repos/acme/shop/git/trees/main"]
    assert server.requests == []
    assert await index(embedder) == {"projects": 1, "projects_unchanged": 1}


async def test_of_several_documents_only_the_changed_one_is_read(site, index, embedder, server):
    await site.push("shop", {"README.md": README, "docs/a.md": GUIDE, "docs/b.md": GUIDE})
    await index(embedder)
    server.requests.clear()
    await site.push("shop", {"docs/b.md": GUIDE + "\nAnd the narwhal.\n"})

    counts = await index(embedder)

    assert counts == {
        "projects": 1,
        "documents_unchanged": 2,
        "documents_updated": 1,
        "chunks": 1,
        "vectors": 1,
    }
    assert site.github.asked[1:] == ["GET /repos/acme/shop/contents/docs/b.md"]
    assert [len(request.body["input"]) for request in server.requests] == [1]
    assert [one["path"] for one in await site.search("narwhal")] == ["docs/b.md"]


async def test_a_document_that_is_removed_goes_away(site, index):
    await site.push("shop", {"README.md": README, "docs/a.md": GUIDE})
    await index()
    await site.push("shop", {"docs/a.md": None})

    assert (await index())["documents_gone"] == 1
    assert await site.documents() == ["README.md"]
    assert await site.search("walrus") == []


async def test_known_content_costs_nothing_when_the_memory_is_lost(
    site, index, embedder, server, sql
):
    await site.push("shop", {"README.md": README})
    await index(embedder)
    server.requests.clear()
    await sql.execute("delete from checkpoints")

    assert await index(embedder) == {"projects": 1, "documents_unchanged": 1}
    assert server.requests == []


@pytest.mark.parametrize("value", ["null", '{"blobs": 7}', '{"state": [], "other": 1}', "[]"])
async def test_a_memory_of_no_use_is_forgotten(site, index, sql, value):
    await site.push("shop", {"README.md": README})
    await index()
    await sql.execute(f"update checkpoints set value = '{value}'")

    assert (await index())["documents_unchanged"] == 1
    assert await index() == {"projects": 1, "projects_unchanged": 1}


async def test_a_document_that_somebody_deleted_from_the_records_is_written_again(site, index, sql):
    await site.push("shop", {"README.md": README, "docs/a.md": GUIDE})
    await index()
    await sql.execute("delete from documents where path = 'docs/a.md'")

    counts = await index()
    assert (counts["documents_created"], counts["documents_unchanged"]) == (1, 1)
    assert sorted(await site.documents()) == ["README.md", "docs/a.md"]


async def test_passages_are_embedded_with_their_headings(site, index, embedder, server, sql):
    await site.push("shop", {"README.md": README})

    counts = await index(embedder)

    assert counts["vectors"] == 2
    assert await vectors(sql) == 2
    [request] = server.requests
    assert request.body["input"][1].startswith("Shop\n\nShop > Install\n\n## Install\n\n")
    assert {row["embedder"] for row in await site.rows()} == {
        "openai-embedder/documents@text-embedding-3-small"
    }


async def test_another_embedder_embeds_everything_once(site, index, embedder, server, sql):
    await site.push("shop", {"README.md": README})
    await index()
    assert await vectors(sql) == 0

    await index(embedder)
    assert await vectors(sql) == 2
    wide = OpenAIEmbedder(base_url=server.address, dimensions=8)
    assert (await index(wide))["documents_updated"] == 1
    assert await index(wide) == {"projects": 1, "projects_unchanged": 1}


async def test_the_summary_follows_the_readme(site, index):
    await site.push("shop", {"README.md": README, "docs/a.md": GUIDE})
    await index()
    project = (await site.projects())["shop"]
    assert project["summary"] == "Shop sells things to people. Use the penguin installer."

    await site.push("shop", {"docs/a.md": GUIDE + "More of it is to be said about this.\n"})
    assert "summaries" not in await index()
    await site.push("shop", {"README.md": "# Shop\n\nIt sells something else today.\n"})
    assert (await index())["summaries"] == 1
    assert (await site.projects())["shop"]["summary"] == "It sells something else today."


async def test_without_a_readme_the_first_document_is_summarized(site, index):
    await site.push("shop", {"README.md": README, "docs/a.md": GUIDE})
    await index()
    await site.push("shop", {"README.md": None})
    await index()
    assert "guide for the walrus" in (await site.projects())["shop"]["summary"]

    await site.push("shop", {"docs/a.md": None, "main.py": "x"})
    await index()
    assert (await site.projects())["shop"]["summary"] is None


async def test_documents_that_do_not_fit_are_left_out_and_named(site, index, caplog):
    await site.push("shop", {"README.md": README})
    unfit = {
        "docs/large.md": b"x" * ((1 << 20) + 1),
        "docs/binary.md": b"\x00\x01",
        "docs/control.md": b"\x01" * (1 << 20),
        "docs/a\nb.md": b"x",
        "docs/..\\up.md": b"x",
        f"docs/{'x' * 300}.md": b"x",
        "docs/too-many-parts.md": b"# a\nb\n" * 5001,
    }
    for path, content in unfit.items():
        site.put("shop", path, content)
    site.put("shop", "docs/empty.md", b"")
    site.put("shop", "docs/latin1.md", "Käse".encode("latin-1"))

    counts = await index()

    assert (counts["documents_created"], counts["documents_left_out"]) == (3, len(unfit))
    assert sorted(await site.documents()) == ["README.md", "docs/empty.md", "docs/latin1.md"]
    [record] = [r for r in caplog.records if getattr(r, "action", "") == "documents_left_out"]
    assert record.getMessage().startswith("acme/shop: 7 documents are left out: ")
    for path in unfit:
        assert repr(path) in record.getMessage()


async def test_a_document_that_grew_too_large_goes_away(site, index):
    await site.push("shop", {"README.md": README, "docs/a.md": GUIDE})
    await index()
    await site.push("shop", {"docs/a.md": "x" * ((1 << 20) + 1)})

    assert (await index())["documents_gone"] == 1


async def test_at_most_500_documents_of_a_project_are_kept(site, index, caplog):
    await site.push("shop", {"README.md": README})
    for number in range(502):
        site.put("shop", f"docs/{number:03}.md", f"# {number}\n\ntext\n")

    counts = await index()

    assert (counts["documents_created"], counts["documents_left_out"]) == (500, 3)
    assert "'docs/499.md' (it is beyond 500), 'docs/500.md'" in caplog.text
    assert "README.md" in await site.documents()


async def test_what_the_embedder_refuses_is_found_by_its_words(
    site, index, embedder, server, caplog, sql
):
    await site.push("shop", {"README.md": README, "docs/a.md": GUIDE})
    server.faults = [(400, {})]

    counts = await index(embedder)

    assert (counts["documents_created"], counts["documents_not_embedded"]) == (2, 1)
    assert len(await site.search("penguin")) == 1
    assert await vectors(sql) == 1
    assert "'README.md' is found by its words only: The embedder refused" in caplog.text
    assert await index(embedder) == {"projects": 1, "projects_unchanged": 1}


async def test_a_long_document_has_vectors_for_its_beginning(site, index, embedder, sql):
    await site.push("shop", {"README.md": "# A\n\nword\n\n" * 203})

    counts = await index(embedder)
    assert (counts["chunks"], counts["vectors"], await vectors(sql)) == (203, 200, 200)


async def test_an_embedder_that_takes_no_key_ends_the_run(site, index, embedder, server):
    await site.push("shop", {"README.md": README})
    server.faults = [(401, {})]

    with pytest.raises(EmbedderRefused, match="401") as caught:
        await index(embedder)
    assert KEY not in str(caught.value)


HUGE = [{"index": index, "embedding": [1e308] * 3} for index in (0, 1)]


@pytest.mark.parametrize(
    ("data", "named"),
    [([], "holds 0 vectors for 2 texts"), (HUGE, "a number that is not between -3.4e+38")],
    ids=["none", "huge"],
)
async def test_vectors_of_no_use_fail_their_project_alone(
    site, index, embedder, server, caplog, data, named
):
    await site.push("a-first", {"README.md": README})
    await site.push("b-second", {"README.md": GUIDE})
    server.faults = [lambda answer: {"data": data}]

    counts = await index(embedder)
    assert (counts["projects_failed"], counts["documents_created"]) == (1, 1)
    assert named in caplog.text
    assert (await index(embedder))["documents_created"] == 1


async def test_a_run_that_was_cut_short_is_taken_up_again(site, index, embedder, server):
    await site.push("a-first", {"README.md": README})
    await site.push("b-second", {"README.md": GUIDE})
    server.faults = [None, (401, {})]
    with pytest.raises(EmbedderRefused):
        await index(embedder)
    server.requests.clear()

    counts = await index(embedder)

    assert (counts["projects_unchanged"], counts["documents_created"]) == (1, 1)
    assert len(server.requests) == 1


async def test_one_project_that_fails_does_not_stop_the_others(site, index, caplog):
    for name in ("a", "b", "c"):
        await site.push(name, {"README.md": README})
    site.github.fail("acme/b/git/trees", Answer(451, {"message": "Repository access blocked"}))

    counts = await index()

    assert (counts["projects_failed"], counts["documents_created"]) == (1, 2)
    assert "acme/b: GitHub refused" in caplog.text
    assert (await index())["documents_created"] == 1


async def test_github_that_stays_away_ends_the_run(site, index):
    for name in ("a", "b", "c"):
        await site.push(name, {"README.md": README})
    site.github.fail("acme/b/git/trees", *[Answer(502)] * 100)

    with pytest.raises(GitHubUnavailable):
        await index(at_once=2)


async def test_a_repository_that_lists_nothing_any_more_is_held_back(site, index, caplog):
    await site.push("shop", {"README.md": README})
    await index()
    await site.push("shop", {"README.md": None})

    assert (await index())["projects_failed"] == 1
    assert "its 1 documents are kept as they are" in caplog.text
    assert await site.documents() == ["README.md"]
    assert (await index(allow_mass_change=True))["documents_gone"] == 1
    assert await site.documents() == []


async def test_two_runs_at_once_that_see_the_same_come_to_the_same_end(site, index, embedder):
    for name in "abcde":
        await site.push(name, {"README.md": README, "docs/a.md": GUIDE})

    await asyncio.gather(index(embedder, at_once=3), index(embedder, at_once=3))

    assert len(await site.documents()) == 10
    assert await index(embedder) == {"projects": 5, "projects_unchanged": 5}


async def test_no_secret_is_logged(site, index, embedder, server, caplog):
    caplog.set_level(logging.DEBUG)
    await site.push("shop", {"README.md": README})
    server.faults = [(400, {})]
    site.github.fail("contents", Answer(500, {"message": f"{TOKEN}"}))

    await index(embedder)

    assert TOKEN not in caplog.text
    assert KEY not in caplog.text
