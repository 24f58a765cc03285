"""Starting Prefect's server, with the three things mended that make it slow."""

from __future__ import annotations

import functools
import gc
import os
import sys
import zoneinfo
from pathlib import Path
from typing import Any

import orjson
from jsonschema import validators

PROJECT = Path(__file__).resolve().parent.parent


def serve(host: str, port: int) -> None:
    """Run Prefect's server in this process until it is told to stop."""
    prepare()
    if (PROJECT / "prefect.toml").exists():
        os.chdir(PROJECT)  # Prefect reads `prefect.toml` from the working directory only.
    sys.argv = ["prefect", "server", "start", "--host", host, "--port", str(port)]
    from prefect.cli import app

    app()


def prepare() -> None:
    """Mend what makes the server slow, before anything of Prefect's is imported.

    Prefect lists all time zones whenever it validates a schedule, and reads the whole zone
    database to do so: about half of the server's time. The list does not change while a process
    lives. Of the other half, a third goes into checking that schemas are schemas, the same few
    four times for each deployment that is written. And Python's garbage collector, at its own
    settings, goes through what the server keeps in memory again and again.

    Prefect takes these functions by name as it is imported, so this comes first.
    """
    zoneinfo.available_timezones = functools.cache(zoneinfo.available_timezones)
    gc.set_threshold(20_000, 50, 100)
    create = validators.create
    validators.create = lambda *args, **options: _remembering(create(*args, **options))
    _remembering(validators.Draft202012Validator)


def _remembering(validator: Any) -> Any:
    """Let a class of validators check each schema once; only those that pass are remembered."""
    check = validator.check_schema

    @functools.lru_cache(maxsize=1000)
    def check_text(text: bytes, **options: Any) -> None:
        check(orjson.loads(text), **options)

    def check_schema(schema: Any, **options: Any) -> None:
        try:
            text = orjson.dumps(schema)
        except TypeError:  # not what JSON can say, so it did not come from the API
            check(schema, **options)
        else:
            check_text(text, **options)

    validator.check_schema = staticmethod(check_schema)
    return validator
