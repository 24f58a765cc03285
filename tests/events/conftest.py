"""A RabbitMQ of the tests' own, and what is in its queues."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aio_pika
import psutil
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from yarl import URL

from api.events import DEAD, EXCHANGE, QUEUE, RETRY, declare

# Debian's command in the path runs the service of the machine, as the service's user.
DEBIANS = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
SERVER = str(DEBIANS) if DEBIANS.exists() else "rabbitmq-server"
STARTUP_SECONDS = 90
PASSWORD = "not-to-be-printed"


class Desk:
    """What a publisher sends, and what an operator sees of the queues."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel

    async def send(self, key: str, body: bytes, **properties: Any) -> None:
        """Publishes as Semaphore does; the broker has it on disk when this returns."""
        exchange = await self.channel.declare_exchange(EXCHANGE, "direct", durable=True)
        message = aio_pika.Message(body, delivery_mode=2, **properties)
        await exchange.publish(message, key)

    async def waiting(self, name: str) -> int:
        """Counts the messages of a queue that no consumer has."""
        queue = await self.channel.declare_queue(name, passive=True)
        count: int | None = queue.declaration_result.message_count
        assert count is not None
        return count

    async def take(self, name: str, seconds: float = 20) -> AbstractIncomingMessage:
        """Waits for a message of a queue, and takes it out."""
        queue = await self.channel.get_queue(name, ensure=False)
        deadline = time.monotonic() + seconds
        while (message := await queue.get(fail=False)) is None:
            assert time.monotonic() < deadline, f"nothing is in {name}"
            await asyncio.sleep(0.05)
        await message.ack()
        return message


class Broker:
    """A node of its own: its ports, its cookie, its data, its port mapper, and no plugins."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home / "log"
        port, nodes, mapper = _free_ports(3)
        self.url = URL(f"amqp://rota:{PASSWORD}@127.0.0.1:{port}/")
        (home / "plugins").write_text("[].")
        (home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\n"
            f"default_user = rota\ndefault_pass = {PASSWORD}\ndisk_free_limit.absolute = 1MB\n"
        )
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "rota@localhost",
            "RABBITMQ_DIST_PORT": str(nodes),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        # Else the broker starts one that outlives it.
        self.mapper = self._spawn("epmd", "-port", str(mapper), "-address", "127.0.0.1")
        self.node = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Starts the node on the data that it has, and waits until it takes connections."""
        self.log.write_bytes(b"")
        self.node = self._spawn(SERVER)
        deadline = time.monotonic() + STARTUP_SECONDS
        while "Server startup complete" not in self.log.read_text():
            if self.node.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"RabbitMQ did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)
        return self.node

    def kill(self) -> None:
        """Ends the node as a power loss would."""
        _kill(self.node)

    def stop(self) -> None:
        """Ends the node as its service manager would."""
        self.node.terminate()
        self.node.wait(60)

    def pause(self, number: signal.Signals) -> None:
        """Freezes the node, or lets it go on."""
        for process in psutil.Process(self.node.pid).children(recursive=True):
            process.send_signal(number)

    @asynccontextmanager
    async def desk(self) -> AsyncIterator[Desk]:
        async with await aio_pika.connect(self.url) as connection:
            yield Desk(await connection.channel())

    def end(self) -> None:
        self.kill()
        _kill(self.mapper)

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                command,
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _free_ports(many: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(many)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and its descendants, of which the broker's have groups of their own."""
    found: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        found = [top, *top.children(recursive=True)]
    for one in found:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    while any(_lives(one) for one in found):
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Broker]:
    # Short, because the path of the node's files may have no more than some hundred characters.
    home = Path(tempfile.mkdtemp(prefix="rota-mq-", dir="/tmp"))
    broker = Broker(home)
    try:
        yield broker
    finally:
        broker.end()
        os.system(f"cp {home}/log /tmp/mq.log")
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
async def broker(rabbitmq: Broker) -> AsyncIterator[Broker]:
    """Yields a broker without queues."""
    yield rabbitmq
    async with rabbitmq.desk() as desk:
        for name in (QUEUE, RETRY, DEAD):
            await desk.channel.queue_delete(name)


@pytest.fixture
async def desk(broker: Broker) -> AsyncIterator[Desk]:
    """Yields a desk at a broker with the queues that a consumer makes."""
    async with broker.desk() as desk:
        await declare(desk.channel)
        yield desk
