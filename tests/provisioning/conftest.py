"""A Redis of the tests' own, the provisioner at its other end, and somebody who is told things."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_sync
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from redis.asyncio import Redis

from blocks.provisioner import ProvisionerQueue
from tests.vps.conftest import log, rota

__all__ = ["log", "rota"]

STARTUP_SECONDS = 30
PATH = "services/T0/B0/nobody-may-see"
PASSWORD = "redis-pa55word-nobody-may-see"


class Server:
    """A Redis that listens on a socket in its directory, and keeps its data when it is killed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = home / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it on the data that it has, and waits until it answers."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self.home),
            "requirepass": PASSWORD,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        command = [part for name, value in options.items() for part in (f"--{name}", value)]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", *command],
                env={"PATH": os.environ["PATH"]},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + STARTUP_SECONDS
        with redis_sync.Redis(unix_socket_path=str(self.socket), password=PASSWORD) as client:
            while time.monotonic() < deadline and self.process.poll() is None:
                try:
                    client.ping()
                except redis_sync.RedisError:
                    time.sleep(0.02)
                else:
                    return self.process
        self.kill()
        pytest.fail(f"Redis did not start:\n{(self.home / 'log').read_text()[-4000:]}")

    def kill(self) -> None:
        """Ends it as a power loss would."""
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    # Short, because the path of a socket may have no more than about a hundred characters.
    home = Path(tempfile.mkdtemp(prefix="rota-redis-", dir="/tmp"))
    server = Server(home)
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(home, ignore_errors=True)


class Provisioner:
    """What stands at the other end of the streams, and what an operator sees of them."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    async def requests(self) -> list[dict[str, Any]]:
        """Reads all requests that are in the queue."""
        return [json.loads(one[b"data"]) for one in await self.entries("provisioner:queue")]

    async def answer(
        self, request_id: str, handle: str, status: str = "success", **more: Any
    ) -> str:
        """Says what became of a request, as the contract has it."""
        result = {
            "request_id": request_id,
            "status": status,
            "error": None,
            "duration_ms": 81_000,
            "server_handle": handle,
            "server_ip": "192.0.2.7",
            "services_redeployed": 0,
            "errors": None,
            **more,
        }
        return await self.say({"data": json.dumps(result)})

    async def say(self, fields: dict[Any, Any]) -> str:
        """Puts anything into the stream of results."""
        number: bytes = await self.redis.xadd("provisioner:results", fields)
        return number.decode()

    async def pending(self, group: str) -> int:
        """Counts the results that a group has taken, and has not acknowledged."""
        found: dict[str, Any] = await self.redis.xpending("provisioner:results", group)
        count: int = found["pending"]
        return count

    async def garbage(self) -> list[dict[bytes, bytes]]:
        return await self.entries("provisioner:results:garbage")

    async def entries(self, stream: str) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in await self.redis.xrange(stream)]


@pytest.fixture
async def provisioner(redis_server: Server) -> AsyncIterator[Provisioner]:
    """Yields a provisioner at empty streams."""
    async with Redis(
        unix_socket_path=str(redis_server.socket), password=PASSWORD, protocol=2
    ) as redis:
        yield Provisioner(redis)
        await redis.flushall()


@pytest.fixture
def queue(redis_server: Server, provisioner: Provisioner) -> ProvisionerQueue:
    return ProvisionerQueue(url=redis_server.url, password=PASSWORD)


class Inbox:
    """What an address of people has been sent; `status` is how it answers."""

    def __init__(self) -> None:
        self.address = ""
        self.status = 200
        self.silent = False
        self.released = asyncio.Event()
        self.messages: list[dict[str, Any]] = []

    @property
    def subjects(self) -> list[str]:
        return [one["subject"] for one in self.messages]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        self.messages.append(json.loads(await reader.readexactly(length)))
        if self.silent:
            await self.released.wait()
        writer.write(f"HTTP/1.1 {self.status} Told So\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@pytest.fixture
async def inbox(prefect_server: str) -> AsyncIterator[Inbox]:
    """Yields an inbox, to which the block `custom-webhook/ops` leads by a secret address."""
    inbox = Inbox()
    listener = await asyncio.start_server(inbox.handle, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    inbox.address = f"http://127.0.0.1:{port}/{PATH}"
    await CustomWebhookNotificationBlock(
        name="ops",
        url=inbox.address,
        json_data={"subject": "{{subject}}", "text": "{{body}}"},
    ).asave("ops", overwrite=True)
    yield inbox
    inbox.released.set()
    listener.close()
    await listener.wait_closed()
    await CustomWebhookNotificationBlock.adelete("ops")
