"""A private OpenSSH server, and servers in this process that behave as a test says."""

import asyncio
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import asyncssh
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from blocks.ssh import SSHAccess
from blocks.ssh_hosts import Host
from deployments.gateway import Gateway
from tests.provisioning.conftest import inbox as inbox
from tests.vps import serving
from tests.vps.serving import Rota

STARTUP_SECONDS = 30
ME = getpass.getuser()


@pytest.fixture(scope="session")
def client_key() -> asyncssh.SSHKey:
    """A key to log in with."""
    return asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture(scope="session")
def stranger_key() -> asyncssh.SSHKey:
    """A key that no server knows."""
    return asyncssh.generate_private_key("ssh-ed25519")


def text(key: asyncssh.SSHKey, passphrase: str | None = None) -> str:
    """Returns a private key as it stands in a file."""
    return key.export_private_key("openssh", passphrase).decode()


def line(host: str, port: int, key: asyncssh.SSHKey) -> str:
    """Returns a host's line in `known_hosts`."""
    return f"[{host}]:{port} {key.export_public_key().decode().strip()}\n"


# -- OpenSSH's


class Sshd:
    """An OpenSSH server of the tests' own: its keys, its port, its programs."""

    def __init__(self, home: Path, client_key: asyncssh.SSHKey) -> None:
        self.home = home
        self.log = home / "log"
        # The server's programs look here first.
        self.programs = home / "bin"
        self.programs.mkdir()
        self.host_keys = [
            asyncssh.generate_private_key("ssh-ed25519"),
            asyncssh.generate_private_key("ecdsa-sha2-nistp256"),
        ]
        (home / "authorized_keys").write_bytes(client_key.export_public_key())
        self.settings = ""
        self.port = _free_port()
        self.host = Host("127.0.0.1", self.port)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.process = self.start()

    @property
    def known_hosts(self) -> str:
        return line("127.0.0.1", self.port, self.host_keys[0])

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it with the keys that it has now, and waits until it listens."""
        names = []
        for number, key in enumerate(self.host_keys):
            names.append(self.home / f"host_key_{number}")
            names[-1].write_text(text(key))
            names[-1].chmod(0o600)
        config = self.home / "sshd_config"
        config.write_text(
            f"{self.settings}ListenAddress 127.0.0.1:{self.port}\n"
            + "".join(f"HostKey {name}\n" for name in names)
            + f"AuthorizedKeysFile {self.home}/authorized_keys\n"
            "PidFile none\nStrictModes no\nPermitRootLogin yes\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            # Without a home, no shell reads the files of whoever runs the tests, and none of what
            # these start meets a program of a test's.
            f"PermitUserRC no\nSetEnv HOME={self.home} PATH={self.programs}:/usr/bin:/bin\n"
        )
        sshd = shutil.which("sshd")
        assert sshd is not None
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [sshd, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.process = process
        deadline = time.monotonic() + STARTUP_SECONDS
        while not _listens(self.port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"sshd did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)
        return process

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def program(self, name: str, script: str) -> None:
        """Puts a program before the system's own of that name."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture(scope="session")
def openssh(client_key: asyncssh.SSHKey) -> Iterator[Sshd]:
    home = Path(tempfile.mkdtemp(prefix="rota-sshd-", dir="/tmp"))
    home.chmod(0o755)
    server = Sshd(home, client_key)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def sshd(openssh: Sshd) -> Iterator[Sshd]:
    """Yields the server with its own keys, and without programs of a test's."""
    keys = list(openssh.host_keys)
    yield openssh
    for program in openssh.programs.iterdir():
        program.unlink()
    if openssh.host_keys != keys or openssh.settings:
        openssh.host_keys, openssh.settings = keys, ""
        openssh.stop()
        openssh.start()


@pytest.fixture
def access(client_key: asyncssh.SSHKey) -> Callable[..., SSHAccess]:
    """Makes a block that logs in as whoever runs the tests."""

    def make(**fields: Any) -> SSHAccess:
        given = {"username": ME, "private_key": text(client_key), "connect_seconds": 10, **fields}
        return SSHAccess(**given)

    return make


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


# -- servers in this process

HEALTHY = b"""[clock]
1700000000 000000000
[load]
0.10 0.20 0.30 1/200 4000
[cores]
2
[memory]
MemTotal:        2000000 kB
MemFree:          500000 kB
MemAvailable:    1500000 kB
[uptime]
86400.00 100000.00
[docker]
absent
[disks]
Filesystem     1024-blocks     Used Available Capacity Mounted on
/dev/vda1         10000000  2000000   8000000      20% /
[end]
"""

Answer = Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]]


@dataclass
class Fake:
    """A server in this process, and what was asked of it."""

    host: Host
    key: asyncssh.SSHKey
    commands: list[str | None]
    connections: int = 0
    open: int = 0
    most_open: int = 0

    @property
    def known_hosts(self) -> str:
        return line(self.host.address, self.host.port, self.key)


class Fakes:
    """Starts servers, all of which end with the test."""

    def __init__(self, client_key: asyncssh.SSHKey, stack: AsyncExitStack) -> None:
        self._client_key = client_key
        self._stack = stack
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")

    async def ssh(
        self,
        output: bytes | Answer = HEALTHY,
        address: str = "127.0.0.1",
        key: asyncssh.SSHKey | None = None,
        forwards: bool = False,
        port: int = 0,
        certificate: asyncssh.SSHCertificate | None = None,
    ) -> Fake:
        """Starts an SSH server that answers any command with `output`."""
        fake = Fake(Host(address), key or self.host_key, [])

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                fake.connections += 1
                fake.open += 1
                fake.most_open = max(fake.most_open, fake.open)

            def connection_lost(self, exc: Exception | None) -> None:
                fake.open -= 1

            def connection_requested(
                self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
            ) -> bool:
                if not forwards:
                    raise asyncssh.ChannelOpenError(
                        asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "forwarding is off"
                    )
                return True

        async def answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
            fake.commands.append(process.command)
            if callable(output):
                await output(process)
            else:
                # Its clock is right.
                now = str(int(time.time())).encode()
                process.stdout.write(output.replace(b"1700000000", now))
                process.exit(0)

        listener = await asyncssh.create_server(
            Server,
            address,
            port,
            server_host_keys=[(fake.key, certificate) if certificate else fake.key],
            authorized_client_keys=asyncssh.import_authorized_keys(
                self._client_key.export_public_key().decode()
            ),
            process_factory=answer,
            encoding=None,
        )
        self._stack.push_async_callback(_closed, listener)
        fake.host = Host(address, listener.get_port())
        return fake

    async def tcp(self, serve: Callable[..., Awaitable[None]]) -> Host:
        """Starts a server that does not speak SSH."""
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._stack.push_async_callback(_closed, listener)
        return Host("127.0.0.1", listener.sockets[0].getsockname()[1])

    async def silent(self) -> Host:
        """Starts a server that takes connections, and says nothing."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                await reader.read()
            writer.close()

        return await self.tcp(serve)

    def refusing(self) -> Host:
        """Returns where nothing listens."""
        return Host("127.0.0.1", _free_port())


async def _closed(listener: Any) -> None:
    listener.close()
    await listener.wait_closed()


@pytest.fixture
async def fakes(client_key: asyncssh.SSHKey) -> AsyncIterator[Fakes]:
    async with AsyncExitStack() as stack:
        yield Fakes(client_key, stack)


# -- Rota's API, to write to


@pytest.fixture
async def rota(
    engine: AsyncEngine, gateway: Gateway, sql: asyncpg.Connection
) -> AsyncIterator[Rota]:
    async with serving.serving(engine, gateway, sql) as rota:
        yield rota
