"""Private servers for the tests: each is started once, when the first test asks for it."""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import httpx
import pytest
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from store import database, embedded

if TYPE_CHECKING:
    from deployments.gateway import Gateway

STARTUP_SECONDS = 90

# Short, because the path of a Unix socket may have no more than about a hundred characters.
HOME = Path(tempfile.mkdtemp(prefix="rota-", dir="/tmp"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)


def _leave_the_users_environment() -> None:
    """Point Rota and Prefect, this process and its children, to where nothing of the user's is.

    Prefect reads its settings as it is imported, so this comes before, and before `prefect.toml`
    could name a server that somebody uses.
    """
    for name in list(os.environ):
        if name.startswith(("ROTA_", "PREFECT_")):
            del os.environ[name]
    os.environ |= {
        "ROTA_HOME": str(HOME / "rota"),
        "PREFECT_HOME": str(HOME / "prefect"),
        "PREFECT_API_URL": "http://127.0.0.1:9/api",  # nothing listens there
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


_leave_the_users_environment()


# -- the definitions database


@pytest.fixture(scope="session")
def postgres() -> Iterator[URL]:
    """Yields the address of a PostgreSQL of the tests' own, as its superuser."""
    server = embedded.start(HOME / "postgres")
    try:
        address = embedded.running_url(server.pgdata)
        assert address is not None
        yield address
    finally:
        server.stop()


@pytest.fixture(scope="session")
async def template(postgres: URL) -> URL:
    """Returns the address of a migrated database, which `database_url` copies."""
    connection = await database.connect(postgres)
    await connection.execute("alter system set fsync = off")
    await connection.execute("select pg_reload_conf()")
    await connection.execute("create database rota_template")
    await connection.close()
    address = postgres.set(database="rota_template")
    async with database.opened(address) as engine:
        await database.upgrade(engine)
    return address


_numbers = count(1)


@pytest.fixture
async def database_url(postgres: URL, template: URL) -> AsyncIterator[str]:
    """Yields the address of a migrated, empty database that no other test sees."""
    name = f"t_{next(_numbers)}"
    address = postgres.set(database=name)
    admin = await database.connect(postgres)
    await admin.execute(f"create database {name} template {template.database}")
    connection = await database.connect(address)
    # A copy would own the deployments of every other copy.
    await connection.execute(
        "update marks set value = to_jsonb(left(md5(random()::text), 12)) where name = 'instance'"
    )
    await connection.close()
    try:
        yield address.render_as_string(hide_password=False)
    finally:
        await admin.execute(f"drop database {name} with (force)")
        await admin.close()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Yields an engine on the test's database, and sees that nobody keeps a connection."""
    async with database.opened(make_url(database_url)) as engine:
        yield engine
        assert engine.pool.checkedout() == 0, "a connection was not given back to the pool"  # type: ignore[attr-defined]


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Yields a bare connection, for plain SQL such as anybody may write."""
    connection = await database.connect(make_url(database_url))
    yield connection
    await connection.close()


# -- Prefect


@pytest.fixture(scope="session")
def prefect_home() -> Path:
    home = HOME / "prefect"
    home.mkdir(exist_ok=True)
    return home


@pytest.fixture(scope="session")
def prefect_server(prefect_home: Path) -> Iterator[str]:
    """Starts a server with a SQLite database of its own, and points this process to it.

    Yields the address of its API.
    """
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    process = _start_prefect(prefect_home, port)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_API_URL", url)
            with temporary_settings(updates={PREFECT_API_URL: url}):
                yield url
                # Logs still on their way would look for the server until long after its end.
                APILogHandler().flush()
    finally:
        _end_group(process)


@pytest.fixture
async def gateway(prefect_server: str) -> "AsyncIterator[Gateway]":
    """Yields a gateway to the tests' Prefect server."""
    from deployments.gateway import Gateway

    async with Gateway.connect() as connected:
        yield connected


@pytest.fixture(scope="session")
async def pool(prefect_server: str) -> str:
    """Returns the name of the work pool that definitions go to which name none."""
    from prefect.workers.process import ProcessWorker

    from deployments.gateway import Gateway

    async with Gateway.connect() as connected:
        template = ProcessWorker.get_default_base_job_template()
        await connected.create_work_pool("rota", "process", template)
    return "rota"


@pytest.fixture
def start_prefect() -> Callable[[Path, int], subprocess.Popen[bytes]]:
    """Gives what starts a Prefect server that a test may kill."""
    return _start_prefect


@pytest.fixture
def end_group() -> Callable[..., None]:
    """Gives what ends such a server, by SIGTERM unless told otherwise."""
    return _end_group


@pytest.fixture
def short_home() -> Iterator[Path]:
    """Yields a directory whose path leaves room for that of a socket."""
    home = Path(tempfile.mkdtemp(dir=HOME))
    yield home
    shutil.rmtree(home, ignore_errors=True)


def _start_prefect(home: Path, port: int) -> subprocess.Popen[bytes]:
    """Starts Prefect's server as Rota does, and waits until it answers."""
    url = f"http://127.0.0.1:{port}/api"
    log = home / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from scripts.server import serve; serve('127.0.0.1', {port})",
            ],
            env={**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": url},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").is_success:
                return process
        time.sleep(0.1)
    _end_group(process)
    pytest.fail(f"Prefect's server did not start:\n{log.read_text()[-4000:]}")


def _end_group(process: subprocess.Popen[bytes], by: signal.Signals = signal.SIGTERM) -> None:
    """Ends a process that leads its group, and whatever it has left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, by)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# -- programs of the system's own

_missing: dict[str, str] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first, so that two who share them end at much one time.

    A test that holds seconds has a second try, since others may have kept the machine busy.
    """
    items.sort(key=lambda item: item.path.parent.name not in ("workers", "jobs"))
    for item in items:
        if item.get_closest_marker("wall_clock"):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose program is not here, and says so at the end; CI may not skip."""
    for mark in item.iter_markers("needs"):
        program, package = mark.args
        if shutil.which(program) is None:
            _missing[program] = package
            if os.environ.get("CI") == "true":
                pytest.fail(f"{program} is missing, and CI tests everything")
            pytest.skip(f"{program} is missing")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for program, package in _missing.items():
        terminalreporter.write_line(
            f"Not tested for want of {program}: install the package {package}, "
            f"on Debian with `apt-get install {package}`."
        )
