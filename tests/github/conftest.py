"""A GitHub of the tests' own, and the API that its repositories are written to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import make
from blocks.github_service import GitHub
from blocks.outgoing import Backoff
from blocks.records import Records
from deployments.gateway import Gateway
from flows.github_sync import Sweep
from store import tokens
from store.settings import Settings
from tests.github.fake import TOKEN, Clock, FakeGitHub


@asynccontextmanager
async def serving(fake: FakeGitHub) -> AsyncIterator[FakeGitHub]:
    listener = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        fake.released.set()
        listener.close()
        await listener.wait_closed()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backoff(clock: Clock) -> Backoff:
    return Backoff(clock=lambda: clock.now, sleep=clock.sleep, jitter=lambda: 1.0)


@pytest.fixture
async def fake(clock: Clock) -> AsyncIterator[FakeGitHub]:
    async with serving(FakeGitHub(clock)) as fake:
        yield fake


@pytest.fixture
def organization(fake: FakeGitHub) -> GitHub:
    return GitHub(organization="acme", token=TOKEN, base_url=fake.address, read_seconds=0.5)


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def private_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()


@pytest.fixture
def app(fake, key, private_pem):
    """The block of an App that is installed in the organization."""
    public = key.public_key()
    fake.app_key = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
    fake.tokens.clear()
    return {
        "organization": "acme",
        "app_id": "4711",
        "private_key": private_pem,
        "base_url": fake.address,
    }


# -- the API


@pytest.fixture
async def tenant(sql: asyncpg.Connection) -> str:
    slug = f"acme-{uuid4().hex[:10]}"
    await sql.execute("insert into tenants (slug) values ($1)", slug)
    return slug


@pytest.fixture
async def rota(engine: AsyncEngine, gateway: Gateway, tenant: str) -> AsyncIterator[Records]:
    """Yields a block for the API, which is served on loopback."""
    app = await make(Settings(), engine, gateway)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    token, _ = await tokens.create(engine, "sync", "worker", tenant)
    yield Records(base_url=f"http://127.0.0.1:{port}", token=token)
    server.should_exit = True
    await running


Sync = Callable[..., Awaitable[dict[str, int]]]


@pytest.fixture
def sync(organization: GitHub, rota: Records, tenant: str, backoff: Backoff) -> Sync:
    """Gives what makes one sweep, and returns what it counted."""
    cycles = iter(range(1000))

    async def call(deadline_seconds: float = 900, block: GitHub = organization, **how: Any) -> Any:
        how.setdefault("cycle", f"cycle-{next(cycles)}")
        how.setdefault("listed_at", datetime.now(UTC))
        async with (
            rota.of(tenant, backoff=backoff) as mine,
            block.connected(deadline_seconds=deadline_seconds, backoff=backoff) as github,
        ):
            sweep = Sweep(github, mine, block.source, **how)
            await sweep.run()
            return {name: count for name, count in sweep.counts.items() if count}

    return call


@pytest.fixture
def projects(rota: Records, tenant: str) -> Callable[[], Awaitable[dict[str, dict[str, Any]]]]:
    """Gives what reads all projects from the API, by their names."""

    async def read() -> dict[str, dict[str, Any]]:
        async with rota.of(tenant) as mine:
            return {one["name"]: one async for page in mine.pages("projects") for one in page}

    return read
