"""Search: by word, by meaning, and by both put together."""

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from store import search
from store.search import fuse
from tests.api.test_documents import chunk, document

E = "tests/three"

# What an embedder could make of some words: a number for each of three subjects.
SUBJECTS = {"ship": [1.0, 0.0, 0.0], "pay": [0.0, 1.0, 0.0], "log": [0.0, 0.0, 1.0]}


@pytest.fixture
async def shop(acme: str, sql: asyncpg.Connection) -> UUID:
    """Makes a project of the tenant's, and returns its id."""
    found: UUID = await sql.fetchval(
        "insert into projects (tenant, name) values ($1, 'shop') returning id", acme
    )
    return found


@pytest.fixture
def write(api: Any, acme: str, shop: UUID) -> Any:
    """Gives what writes documents of the project."""

    async def put(*documents: dict[str, Any], project: UUID = shop, tenant: str = acme) -> None:
        path = f"/tenants/{tenant}/projects/{project}/documents"
        assert (await api.put(path, json={"documents": documents})).status_code == 200

    return put


@pytest.fixture
def find(api: Any, acme: str) -> Any:
    """Gives what searches, and returns the answer."""

    async def get(q: str, who: str = "worker", **params: Any) -> Any:
        answer = await api.get(f"/tenants/{acme}/search", who, params={"q": q, **params})
        assert answer.status_code == 200
        return answer.json()

    return get


def texts(found: Any) -> list[str]:
    return [one["text"] for one in found["items"]]


@pytest.fixture
def embedding(api: Any) -> list[tuple[str, str]]:
    """Lets the API ask an embedder; returns what it was asked, as it comes."""
    asked: list[tuple[str, str]] = []

    async def embed(name: str, text: str) -> list[float] | None:
        asked.append((name, text))
        return next((one for word, one in SUBJECTS.items() if word in text), None)

    api.app.state.rota.embed = embed
    return asked


async def test_what_is_found_says_where_it_stands(
    find: Any, write: Any, shop: UUID, api: Any, acme: str
) -> None:
    piece = chunk(heading="Install > Docker", text="Run docker compose.", start_line=7, end_line=9)
    await write(document("docs/a.md", uri="https://x/a.md", chunks=[piece]))
    (listed,) = (await api.get(f"/tenants/{acme}/documents")).json()["items"]
    found = await find("compose", "viewer")
    assert found["by"] == ["word"]
    (hit,) = found["items"]
    assert hit.pop("score") == pytest.approx(1 / 61)
    assert hit == {
        "project": str(shop),
        "project_name": "shop",
        "document": listed["id"],
        "path": "docs/a.md",
        "uri": "https://x/a.md",
        "heading": "Install > Docker",
        "start_line": 7,
        "end_line": 9,
        "text": "Run docker compose.",
        "by": ["word"],
    }


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("ships", {"It ships fast"}),
        ("SHIPS", {"It ships fast"}),
        ("it fast", {"It ships fast", "fast it is"}),
        ('"fast it"', {"fast it is"}),
        ("ships or slow", {"It ships fast", "Slow."}),
        ("fast -ships", {"fast it is"}),
        ("größe", {"Eine Größe"}),
        ("nothing", set()),
        ("...", set()),
        ("' or 1=1 --", set()),
        ("a\0b", set()),
    ],
)
async def test_words_are_searched_as_they_are_written(
    find: Any, write: Any, q: str, expected: set[str]
) -> None:
    await write(document("a", "It ships fast", "fast it is", "Slow.", "Eine Größe"))
    assert set(texts(await find(q))) == expected


async def test_a_heading_counts_more_than_the_text(find: Any, write: Any) -> None:
    pieces = [chunk(0, "docker"), chunk(1, "here", heading="docker"), chunk(2, "neither")]
    await write(document("a", chunks=pieces))
    assert texts(await find("docker")) == ["here", "docker"]


async def test_no_more_is_found_than_is_asked_for(find: Any, write: Any) -> None:
    await write(document("a", *(f"word {number}" for number in range(20))))
    assert len(texts(await find("word"))) == 10
    assert len(texts(await find("word", limit=3))) == 3
    assert len(texts(await find("word", limit=50))) == 20


async def test_only_the_tenant_s_own_documents_are_searched(
    find: Any, write: Any, api: Any, sql: asyncpg.Connection, embedding: Any
) -> None:
    await sql.execute("insert into tenants (slug) values ('other')")
    foreign = await sql.fetchval(
        "insert into projects (tenant, name) values ('other', 'x') returning id"
    )
    secret = document("a", embedder=E, chunks=[chunk(text="ship", embedding=SUBJECTS["ship"])])
    await write(secret, project=foreign, tenant="other")
    own = document("b", embedder=E, chunks=[chunk(text="own", embedding=SUBJECTS["log"])])
    await write(own)
    found = await find("ship")
    assert texts(found) == ["own"]
    assert found["by"] == ["word", "meaning"]


async def test_one_project_can_be_searched(
    find: Any, write: Any, acme: str, shop: UUID, sql: asyncpg.Connection, embedding: Any
) -> None:
    other = await sql.fetchval(
        "insert into projects (tenant, name) values ($1, 'other') returning id", acme
    )
    for project, text in ((shop, "ship one"), (other, "ship two")):
        pieces = [chunk(text=text, embedding=SUBJECTS["ship"])]
        await write(document("a", embedder=E, chunks=pieces), project=project)
    assert set(texts(await find("ship"))) == {"ship one", "ship two"}
    assert texts(await find("ship", project=str(other))) == ["ship two"]
    assert texts(await find("ship", project=str(UUID(int=1)))) == []


async def test_by_meaning_it_is_found_without_the_word(
    find: Any, write: Any, embedding: list[tuple[str, str]]
) -> None:
    pieces = [
        chunk(0, "Delivery takes two days", embedding=[0.9, 0.1, 0.0]),
        chunk(1, "An invoice is sent", embedding=[0.1, 0.9, 0.0]),
    ]
    await write(document("a", embedder=E, chunks=pieces))
    found = await find("how do you ship?")
    assert texts(found) == ["Delivery takes two days", "An invoice is sent"]
    assert found["by"] == ["word", "meaning"]
    assert [one["by"] for one in found["items"]] == [["meaning"], ["meaning"]]
    assert embedding == [(E, "how do you ship?")]


async def test_what_stands_in_both_rankings_comes_first(
    find: Any, write: Any, embedding: Any
) -> None:
    pieces = [
        chunk(0, "near", embedding=[1.0, 0.0, 0.0]),
        chunk(1, "ship and near", embedding=[0.9, 0.1, 0.0]),
        chunk(2, "far", embedding=[0.0, 0.0, 1.0]),
    ]
    await write(document("a", embedder=E, chunks=pieces))
    found = await find("ship")
    assert texts(found) == ["ship and near", "near", "far"]
    first = found["items"][0]
    assert first["by"] == ["word", "meaning"]
    assert first["score"] == pytest.approx(1 / 61 + 1 / 62)


async def test_vectors_of_another_embedder_are_not_compared(
    find: Any, write: Any, embedding: list[tuple[str, str]]
) -> None:
    for name, embedder in (("a", "old"), ("b", E), ("c", E)):
        piece = chunk(text=f"{name} {embedder}", embedding=SUBJECTS["ship"])
        await write(document(name, embedder=embedder, chunks=[piece]))
    assert texts(await find("ship")) == [f"b {E}", f"c {E}"]
    assert embedding == [(E, "ship")]


async def test_vectors_of_different_sizes_live_side_by_side(
    find: Any, write: Any, embedding: Any
) -> None:
    for name, size in (("long", 384), ("longer", 1536)):
        piece = chunk(text=name, embedding=[0.1] * size)
        await write(document(name, embedder=name, chunks=[piece]))
    for name in "ab":
        piece = chunk(text=name, embedding=SUBJECTS["ship"])
        await write(document(name, embedder=E, chunks=[piece]))
    assert texts(await find("ship")) == ["a", "b"]


async def test_an_embedder_that_has_no_vector_leaves_the_words(
    find: Any, write: Any, embedding: list[tuple[str, str]]
) -> None:
    piece = chunk(text="strange", embedding=SUBJECTS["ship"])
    await write(document("a", embedder=E, chunks=[piece]))
    found = await find("strange")
    assert (texts(found), found["by"]) == (["strange"], ["word"])
    assert embedding == [(E, "strange")]


async def test_without_vectors_nobody_is_asked_for_one(
    find: Any, write: Any, embedding: list[tuple[str, str]]
) -> None:
    await write(document("a", "ship"))
    assert (await find("ship"))["by"] == ["word"]
    assert embedding == []


async def test_at_most_32_words_are_searched_for(api: Any, acme: str) -> None:
    for count, status in ((32, 200), (33, 422)):
        for between in " ", "/":
            params = {"q": between.join(["a"] * count)}
            answer = await api.get(f"/tenants/{acme}/search", params=params)
            assert answer.status_code == status
    assert answer.json()["detail"] == "q: it has 33 words; use at most 32"


async def test_what_takes_too_long_is_refused_and_not_the_database_away(
    api: Any, acme: str, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = " ".join("abcdefghijklmnopqrstuvwxyz")
    await write(document("a", *(f"{words} " * 600 for _ in range(40))))
    monkeypatch.setattr(search, "MOST_SECONDS", 0.001)
    answer = await api.get(f"/tenants/{acme}/search", params={"q": words})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "q: it finds too much; use fewer or rarer words"


async def test_of_much_that_has_the_word_a_part_is_ranked(
    find: Any, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "RANKED", 5)
    await write(document("a", *(f"word {number}" for number in range(20))))
    assert len(texts(await find("word"))) == 5


async def test_what_cannot_be_searched_for_is_refused(api: Any, acme: str) -> None:
    for params in ({}, {"q": ""}, {"q": "x" * 1001}, {"q": "x", "limit": 51}, {"q": "x", "v": 1}):
        answer = await api.get(f"/tenants/{acme}/search", params=params)
        assert answer.status_code == (200 if "v" in params else 422)
    assert (await api.get("/tenants/nobody/search", params={"q": "x"})).status_code == 404


def test_rankings_are_put_together_by_their_places() -> None:
    assert fuse([[1, 2, 3], [3, 4]]) == pytest.approx(
        {1: 1 / 61, 2: 1 / 62, 3: 1 / 63 + 1 / 61, 4: 1 / 62}
    )
    assert fuse([]) == {}
