"""`rota up`, from the command line to the running house."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from scripts.supervise import CannotStart, claimed, environment
from store.settings import Settings


def up(
    home: Path | None, prefect_port: int | None, service_port: int | None, api_port: int | None
) -> int:
    """Run everything until SIGINT or SIGTERM; return the exit code."""
    given = {
        "HOME": home,
        "PREFECT_PORT": prefect_port,
        "SERVICE_PORT": service_port,
        "API_PORT": api_port,
    }
    os.environ |= {f"ROTA_{name}": str(value) for name, value in given.items() if value is not None}
    settings = Settings()
    os.environ |= environment(settings)
    try:
        with claimed(settings):
            return _run(settings)
    except CannotStart as error:
        sys.stderr.write(f"rota up: {error}\n")
    return 1


def _run(settings: Settings) -> int:
    # Only now: Prefect reads its settings, and makes its home, as it is imported.
    from scripts.house import run
    from store.database import DatabaseError

    try:
        return asyncio.run(run(settings))
    except DatabaseError as error:
        raise CannotStart(str(error)) from error
    except (subprocess.SubprocessError, OSError) as error:
        raise CannotStart(f"the definitions database does not start: {error}") from error
