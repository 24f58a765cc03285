"""Starting Prefect's server, with the one thing mended that makes it slow."""

from __future__ import annotations

import functools
import os
import sys
import zoneinfo
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def serve(host: str, port: int) -> None:
    """Run Prefect's server in this process until it is told to stop.

    Prefect lists all time zones whenever it validates a schedule, and reads the whole zone
    database to do so: about half of the server's time. The list does not change while a process
    lives.
    """
    zoneinfo.available_timezones = functools.cache(zoneinfo.available_timezones)
    if (PROJECT / "prefect.toml").exists():
        os.chdir(PROJECT)  # Prefect reads `prefect.toml` from the working directory only.
    sys.argv = ["prefect", "server", "start", "--host", host, "--port", str(port)]
    # Not before the list is cached: Prefect takes the function by name as it is imported.
    from prefect.cli import app

    app()
