"""Documents: written whole with their chunks, listed, and deleted with what they are of."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

Write = Callable[..., Awaitable[Any]]


def chunk(position: int = 0, text: str = "Some text.", **fields: Any) -> dict[str, Any]:
    """Returns a piece of a document, one line a position."""
    line = position + 1
    return {"position": position, "start_line": line, "end_line": line, "text": text, **fields}


def document(path: str = "README.md", *texts: str, **fields: Any) -> dict[str, Any]:
    """Returns a document of these pieces, with the hash of their text."""
    whole = "\n".join(texts).encode()
    return {
        "path": path,
        "content_hash": f"sha256:{hashlib.sha256(whole).hexdigest()}",
        "chunks": [chunk(number, text) for number, text in enumerate(texts)],
        **fields,
    }


@pytest.fixture
async def shop(acme: str, sql: asyncpg.Connection) -> UUID:
    """Makes a project of the tenant's, and returns its id."""
    found: UUID = await sql.fetchval(
        "insert into projects (tenant, name) values ($1, 'shop') returning id", acme
    )
    return found


@pytest.fixture
def path(acme: str, shop: UUID) -> str:
    """The path of the project's documents."""
    return f"/tenants/{acme}/projects/{shop}/documents"


@pytest.fixture
def write(api: Any, path: str) -> Write:
    """Gives what writes documents, and returns the answer; a 200 as what became of each."""

    async def put(*documents: dict[str, Any], present: list[str] | None = None) -> Any:
        answer = await api.put(path, "worker", json={"documents": documents, "present": present})
        found = answer.json()
        return {name: made for name, made in found.items() if made} if answer.is_success else answer

    return put


async def test_a_document_is_created_and_listed_without_its_text(
    api: Any, acme: str, shop: UUID, path: str, write: Any
) -> None:
    said = document("docs/a.md", "One.", "Zwei Größen.", title="A", uri="https://x/a.md")
    assert await write(said) == {"created": ["docs/a.md"]}
    (found,) = (await api.get(path, "worker")).json()["items"]
    assert {name: found[name] for name in ("path", "title", "uri", "content_hash")} == {
        name: said[name] for name in ("path", "title", "uri", "content_hash")
    }
    assert (found["project_id"], found["embedder"]) == (str(shop), None)
    assert (found["bytes"], found["chunks"]) == (len("One.Zwei Größen.".encode()), 2)
    assert (await api.get(f"/tenants/{acme}/documents", "viewer")).json()["items"] == [found]


async def test_the_same_again_changes_nothing(api: Any, path: str, write: Any) -> None:
    await write(document("a", "One."))
    before = (await api.get(path)).json()["items"]
    assert await write(document("a", "One.")) == {"unchanged": ["a"]}
    assert (await api.get(path)).json()["items"] == before


@pytest.mark.parametrize("fields", [{"title": "New"}, {"uri": "https://y"}, {"embedder": "e"}])
async def test_what_differs_in_anything_is_updated(write: Any, fields: dict[str, Any]) -> None:
    await write(document("a", "One."))
    assert await write(document("a", "One.", **fields)) == {"updated": ["a"]}
    assert await write(document("a", "One.", **fields)) == {"unchanged": ["a"]}


async def test_an_address_is_written_without_the_chunks(
    api: Any, path: str, write: Any, sql: asyncpg.Connection
) -> None:
    await write(document("a", embedder="e", chunks=[chunk(embedding=[1.0, 0.5])]))
    (before,) = (await api.get(path)).json()["items"]
    moved = document("a", embedder="e", uri="https://y", chunks=None)

    assert await write(moved) == {"updated": ["a"]}
    assert await write(moved) == {"unchanged": ["a"]}
    (after,) = (await api.get(path)).json()["items"]
    changed = {"uri": "https://y", "updated_at": after["updated_at"]}
    assert after == {**before, **changed}
    for table in ("chunks", "chunk_vectors"):
        assert await sql.fetchval(f"select count(*) from {table}") == 1


@pytest.mark.parametrize(
    "fields", [{"path": "new"}, {"content_hash": f"sha256:{'0' * 64}"}, {"embedder": "e"}]
)
async def test_a_document_of_which_no_chunks_are_known_is_refused_without_them(
    api: Any, path: str, write: Any, fields: dict[str, Any]
) -> None:
    await write(document("a", "One."))
    before = (await api.get(path)).json()["items"]

    other, kept = document("b", "Two."), document("a", "One.", uri="https://y")
    refused = await write(other, {**kept, **fields, "chunks": None})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["field"] == "documents.1.chunks"
    assert "Send its chunks." in error["detail"]
    assert (await api.get(path)).json()["items"] == before


async def test_all_chunks_of_a_document_are_replaced(
    api: Any, path: str, write: Any, sql: asyncpg.Connection
) -> None:
    await write(document("a", "One.", "Two.", "Three."), document("b", "Other."))
    (before, _) = (await api.get(path)).json()["items"]
    assert await write(document("a", "Four.")) == {"updated": ["a"]}
    (after, _) = (await api.get(path)).json()["items"]
    assert (after["id"], after["created_at"]) == (before["id"], before["created_at"])
    assert (after["chunks"], after["bytes"]) == (1, 5)
    assert after["updated_at"] > before["updated_at"]
    texts = await sql.fetch("select text from chunks order by text")
    assert [one["text"] for one in texts] == ["Four.", "Other."]


async def test_what_is_not_present_is_deleted_with_its_chunks(
    write: Any, sql: asyncpg.Connection
) -> None:
    await write(*(document(name, name) for name in "abcd"))
    assert await write(document("a", "new"), present=["b"]) == {
        "updated": ["a"],
        "gone": ["c", "d"],
    }
    assert await sql.fetchval("select count(*) from chunks") == 2
    assert await write(present=[]) == {"gone": ["a", "b"]}
    assert await sql.fetchval("select count(*) from chunks") == 0


async def test_another_project_s_documents_are_left_alone(
    api: Any, acme: str, write: Any, sql: asyncpg.Connection
) -> None:
    other = await sql.fetchval(
        "insert into projects (tenant, name) values ($1, 'other') returning id", acme
    )
    body = {"documents": [document("a", "Other.")]}
    await api.put(f"/tenants/{acme}/projects/{other}/documents", json=body)
    assert await write(document("a", "Mine.")) == {"created": ["a"]}
    assert await write(present=[]) == {"gone": ["a"]}
    found = (await api.get(f"/tenants/{acme}/documents")).json()["items"]
    assert [one["project_id"] for one in found] == [str(other)]


async def test_documents_go_with_their_project_and_their_tenant(
    write: Any, acme: str, sql: asyncpg.Connection
) -> None:
    vectors = [chunk(embedding=[1.0, 0.0])]
    await write(document("a", embedder="e", chunks=vectors))
    assert await sql.fetchval("select count(*) from chunk_vectors") == 1
    await sql.execute("delete from tenants where slug = $1", acme)
    for table in ("projects", "documents", "chunks", "chunk_vectors"):
        assert await sql.fetchval(f"select count(*) from {table}") == 0


async def test_vectors_are_kept_where_there_are_some(write: Any, sql: asyncpg.Connection) -> None:
    chunks = [chunk(0, embedding=[0.25, -1, 1e-7]), chunk(1)]
    assert await write(document("a", embedder="e", chunks=chunks)) == {"created": ["a"]}
    found = await sql.fetch("select embedding::text as it from chunk_vectors")
    assert [one["it"] for one in found] == ["[0.25,-1,1e-07]"]


async def test_writers_at_once_of_one_document_leave_the_chunks_of_one_of_them(
    write: Any, sql: asyncpg.Connection
) -> None:
    texts = [[f"{number} {piece}" for piece in range(5)] for number in range(6)]
    written = await asyncio.gather(*(write(document("a", *one)) for one in texts))
    assert sorted(map(str, written)) == sorted(
        [str({"created": ["a"]})] + [str({"updated": ["a"]})] * 5
    )
    found = await sql.fetch("select text from chunks order by position")
    assert [one["text"] for one in found] in texts


async def test_new_dimensions_that_come_at_once_are_all_written(write: Any) -> None:
    documents = [
        document(str(number), embedder=f"e{size}", chunks=[chunk(embedding=[0.5] * size)])
        for number, size in enumerate([3, 4, 5] * 4)
    ]
    written = await asyncio.gather(*map(write, documents))
    assert all(one.keys() == {"created"} for one in written)


async def test_many_documents_are_written_at_once(write: Any) -> None:
    documents = [document(f"{number:04}", "One.", "Two.") for number in range(1000)]
    assert len((await write(*documents))["created"]) == 1000
    assert len((await write(*documents))["unchanged"]) == 1000
    assert (await write(*documents, document("x", "y"))).status_code == 422


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"path": ""}, "documents.1.path"),
        ({"path": "a"}, "documents.1.path"),
        ({"content_hash": "md5:0"}, "documents.1.content_hash"),
        ({"content_hash": None}, "documents.1.content_hash"),
        ({"size": 1}, "documents.1.size"),
        ({"embedder": ""}, "documents.1.embedder"),
        ({"chunks": [chunk(0), chunk(0)]}, "documents.1"),
        ({"chunks": [chunk(embedding=[1.0])]}, "documents.1"),
        ({"embedder": "e", "chunks": [chunk(embedding=[])]}, "documents.1.chunks.0.embedding"),
        (
            {"embedder": "e", "chunks": [chunk(embedding=[1e39])]},
            "documents.1.chunks.0.embedding.0",
        ),
        (
            {"embedder": "e", "chunks": [chunk(0, embedding=[1]), chunk(1, embedding=[1, 2])]},
            "documents.1",
        ),
        ({"chunks": [chunk(start_line=3)]}, "documents.1.chunks.0"),
        ({"chunks": [chunk(text="\0")]}, "documents.1.chunks.0.text"),
        ({"chunks": [chunk(text="x" * 32769)]}, "documents.1.chunks.0.text"),
    ],
)
async def test_a_document_that_does_not_fit_refuses_them_all_and_is_named(
    api: Any, path: str, write: Any, fields: dict[str, Any], named: str
) -> None:
    refused = await write(document("a", "One."), {**document("b", "Two."), **fields})
    assert refused.status_code == 422
    assert [one["field"] for one in refused.json()["errors"]] == [named]
    assert (await api.get(path)).json()["items"] == []


async def test_a_project_that_is_not_there_takes_no_documents(api: Any, acme: str) -> None:
    for tenant in (acme, "nobody"):
        path = f"/tenants/{tenant}/projects/{uuid4()}/documents"
        assert (await api.put(path, json={"documents": []})).status_code == 404
        assert (await api.get(path)).status_code == 404


async def test_a_viewer_does_not_write_documents(api: Any, path: str) -> None:
    assert (await api.put(path, "viewer", json={"documents": []})).status_code == 403


async def test_documents_are_listed_in_pages(api: Any, path: str, write: Any) -> None:
    await write(*(document(f"{number}", "x") for number in range(7)))
    first = (await api.get(path, params={"page_size": 3, "page": 2})).json()
    assert ([one["path"] for one in first["items"]], first["total"]) == (["3", "4", "5"], 7)
    seen, there = [], f"{path}?limit=3"
    while there:
        page = (await api.get(there)).json()
        seen += [one["path"] for one in page["items"]]
        there = page["next"]
    assert seen == [str(number) for number in range(7)]
