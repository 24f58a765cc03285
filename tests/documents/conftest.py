"""A GitHub and an embedder of the tests' own, and the API that the documents are written to."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import make
from blocks.embedders import OpenAIEmbedder
from blocks.github_service import GitHub
from blocks.outgoing import Backoff
from blocks.records import Records
from deployments.gateway import Gateway
from flows.embedding import Named
from flows.indexing import Indexer, Project
from scripts.embedding import Embedders
from store import tokens
from store.settings import Settings
from tests.documents.embeddings import KEY, EmbeddingsServer
from tests.github.conftest import backoff as backoff
from tests.github.conftest import clock as clock
from tests.github.conftest import serving
from tests.github.fake import TOKEN, Clock, FakeGitHub


@pytest.fixture
async def server() -> AsyncIterator[EmbeddingsServer]:
    """An embeddings server."""
    server = EmbeddingsServer()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    yield server
    server.released.set()
    listener.close()
    await listener.wait_closed()


@pytest.fixture
async def github(clock: Clock) -> AsyncIterator[FakeGitHub]:
    async with serving(FakeGitHub(clock)) as fake:
        yield fake


@pytest.fixture
def organization(github: FakeGitHub) -> GitHub:
    return GitHub(organization="acme", token=TOKEN, base_url=github.address)


@pytest.fixture
def embedder(server: EmbeddingsServer) -> OpenAIEmbedder:
    return OpenAIEmbedder(base_url=server.address, api_key=KEY, deadline_seconds=5)


@pytest.fixture
async def house(sql: asyncpg.Connection) -> str:
    """Makes a tenant, and returns its slug."""
    slug = f"acme-{uuid4().hex[:10]}"
    await sql.execute("insert into tenants (slug) values ($1)", slug)
    return slug


@pytest.fixture
async def rota(engine: AsyncEngine, gateway: Gateway, house: str) -> AsyncIterator[Records]:
    """Yields a block for the API, which is served on loopback."""
    app = await make(Settings(), engine, gateway, Embedders().embed)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    token, _ = await tokens.create(engine, "documents", "worker", house)
    yield Records(base_url=f"http://127.0.0.1:{port}", token=token)
    server.should_exit = True
    await running


class Site:
    """One tenant's projects at GitHub, and what the records hold of them."""

    def __init__(self, github: FakeGitHub, organization: GitHub, rota: Records, house: str) -> None:
        self.github = github
        self.organization = organization
        self.rota = rota
        self.house = house
        self._pushes = 0

    async def push(self, name: str, files: Mapping[str, bytes | str | None] | None = None) -> None:
        """Writes files to a repository, None deletes one, and has `github_sync` see the push."""
        known = {one["name"]: one for one in self.github.repositories}
        repository = known.get(name) or self.github.add(name)
        for path, content in (files or {}).items():
            self.put(name, path, content)
        self._pushes += 1
        minutes, seconds = divmod(self._pushes, 60)
        repository["pushed_at"] = f"2026-11-21T10:{minutes:02}:{seconds:02}Z"
        await self.write(repository)

    def put(self, name: str, path: str, content: bytes | str | None) -> None:
        """Writes a file, and tells nobody."""
        if content is None:
            del self.github.files[f"acme/{name}", path]
        else:
            body = content.encode() if isinstance(content, str) else content
            self.github.files[f"acme/{name}", path] = body

    async def write(self, repository: dict[str, Any]) -> None:
        item = {
            "repository_id": repository["id"],
            "name": repository["name"],
            "full_name": repository["full_name"],
            "default_branch": repository["default_branch"],
            "pushed_at": repository["pushed_at"],
            "url": repository["html_url"],
        }
        body = {"source": self.organization.source, "projects": [item]}
        async with self.rota.of(self.house) as mine:
            await mine.put("projects", body=body)

    async def projects(self) -> dict[str, dict[str, Any]]:
        async with self.rota.of(self.house) as mine:
            return {one["name"]: one async for page in mine.pages("projects") for one in page}

    async def documents(self) -> list[str]:
        return [one["path"] for one in await self.rows()]

    async def rows(self) -> list[dict[str, Any]]:
        async with self.rota.of(self.house) as mine:
            return [one async for page in mine.pages("documents") for one in page]

    async def search(self, q: str) -> list[dict[str, Any]]:
        async with self.rota.of(self.house) as mine:
            found: list[dict[str, Any]] = (await mine.get("search", params={"q": q}))["items"]
            return found


@pytest.fixture
async def site(github: FakeGitHub, organization: GitHub, rota: Records, house: str) -> Site:
    return Site(github, organization, rota, house)


Index = Callable[..., Awaitable[Counter[str]]]


@pytest.fixture
def index(site: Site, backoff: Backoff) -> Index:
    """Gives what takes all projects' turns, and returns what it counted.

    It forgets what GitHub was asked before.
    """

    async def call(
        embedder: Any = None, at_once: int = 1, allow_mass_change: bool = False
    ) -> Counter[str]:
        site.github.requests.clear()
        named = None
        if embedder:
            kind = embedder.get_block_type_slug()
            named = Named(f"{kind}/documents@{embedder.space}", embedder)
        log = logging.getLogger("tests.documents")
        async with (
            site.rota.of(site.house, backoff=backoff) as mine,
            site.organization.connected(backoff=backoff) as github,
        ):
            indexer = Indexer(mine, github, named, log, allow_mass_change)
            rows = [one async for page in mine.pages("projects") for one in page]
            await indexer.index([Project.model_validate(row) for row in rows], at_once)
        return +indexer.counts

    return call
