"""The servers that both sides of the comparison work against, all private and all new."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
from sqlalchemy.engine import URL

from benchmarks.processes import (
    PROJECT,
    BenchmarkError,
    environment,
    free_port,
    python,
    running,
    wait_until,
)
from store import database, embedded

POOL = "rota"


@dataclass(frozen=True)
class Servers:
    """Where everything is.

    Attributes:
        api: The address of Prefect's API.
        prefect_database: Prefect's database, for looking into it without troubling its server.
        rota_database: The definitions database.
        directory: Where logs and temporary files go.
        server_pid: The process of Prefect's server.
    """

    api: str
    prefect_database: str
    rota_database: URL
    directory: Path
    server_pid: int

    def environment(self, api: str | None = None) -> dict[str, str]:
        """Return the environment of a client of these servers, through `api` if it is given."""
        return environment(
            PREFECT_HOME=str(self.directory / "client-home"),
            PREFECT_API_URL=api or self.api,
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            ROTA_HOME=str(self.directory / "rota-home"),
            ROTA_DATABASE_URL=self.rota_database.render_as_string(hide_password=False),
            ROTA_WORK_POOL=POOL,
        )

    async def prefect(self) -> asyncpg.Connection:
        """Return a connection to Prefect's database."""
        return await asyncpg.connect(self.prefect_database)

    async def rota(self) -> asyncpg.Connection:
        """Return a connection to the definitions database."""
        return await database.connect(self.rota_database)


@contextmanager
def started(directory: Path) -> Iterator[Servers]:
    """Start every server on files below `directory`, and stop them all afterwards.

    Raises:
        BenchmarkError: One does not start; the message says which and why.
    """
    with (
        _debian_postgres(directory) as prefect_database,
        _prefect(directory, prefect_database) as (api, pid),
        _embedded_postgres(directory) as rota_database,
    ):
        servers = Servers(api, prefect_database, rota_database, directory, pid)
        _make_work_pool(servers)
        yield servers


@contextmanager
def _debian_postgres(directory: Path) -> Iterator[str]:
    """Prefect needs the extension `pg_trgm`, which the embedded server does not bring."""
    programs = _debian_programs()
    home = directory / "prefect-postgres"
    home.mkdir()
    user, prefix = "postgres", []
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        shutil.chown(home, "postgres", "postgres")
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    else:
        user = pwd.getpwuid(os.geteuid()).pw_name

    def call(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*prefix, str(programs / program), *arguments],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise BenchmarkError(f"{program} ended with {done.returncode}: {done.stderr.strip()}")

    data, port = home / "data", free_port()
    call("initdb", "-D", str(data), "-A", "trust", "-U", user, "-E", "UTF8", "--locale=C.UTF-8")
    command = [*prefix, str(programs / "postgres"), "-D", str(data), "-k", str(home)]
    command += ["-c", "listen_addresses=127.0.0.1", "-p", str(port)]
    log = directory / "prefect-postgres.log"
    where = ("-h", "127.0.0.1", "-p", str(port), "-U", user)
    with running(command, environment(), log, stop=signal.SIGINT) as process:  # fast shutdown
        ready = [str(programs / "pg_isready"), "-q", *where]
        wait_until(
            lambda: subprocess.run(ready, check=False).returncode == 0,
            "Debian's PostgreSQL",
            60,
            process,
            log,
        )
        call("createdb", *where, "prefect")
        call("psql", *where, "-q", "-d", "prefect", "-c", "create extension pg_trgm")
        yield f"postgresql://{user}@127.0.0.1:{port}/prefect"


def _debian_programs() -> Path:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name)
    )
    if not found:
        raise BenchmarkError(
            "Debian's PostgreSQL is not installed; install it with "
            "`apt-get install postgresql postgresql-contrib`."
        )
    return found[-1]


@contextmanager
def _prefect(directory: Path, prefect_database: str) -> Iterator[tuple[str, int]]:
    """Prefect's server as Rota starts it, with the project's `prefect.toml`."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    env = environment(
        PREFECT_HOME=str(directory / "server-home"),
        PREFECT_API_URL=api,
        PREFECT_SERVER_DATABASE_CONNECTION_URL=prefect_database.replace(
            "postgresql:", "postgresql+asyncpg:"
        ),
    )
    log = directory / "prefect-server.log"
    command = python("-c", f"from scripts.server import serve; serve('127.0.0.1', {port})")
    with running(command, env, log) as process:

        def healthy() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{api}/health").is_success
            return False

        wait_until(healthy, "Prefect's server", 120, process, log)
        yield api, process.pid


@contextmanager
def _embedded_postgres(directory: Path) -> Iterator[URL]:
    pgdata = directory / "rota-home" / "postgres"
    server = embedded.start(pgdata)
    try:
        url = embedded.running_url(pgdata)
        assert url is not None
        asyncio.run(_make_tables(url))
        yield url
    finally:
        server.stop()


async def _make_tables(url: URL) -> None:
    async with database.opened(url) as engine:
        await database.upgrade(engine)


def _make_work_pool(servers: Servers) -> None:
    # Through Prefect's command, which knows the pool's real template of job variables.
    command = python("-m", "prefect", "work-pool", "create", POOL, "--type", "process")
    subprocess.run(
        command,
        env=servers.environment(),
        cwd=PROJECT,
        check=True,
        capture_output=True,
        timeout=120,
    )
