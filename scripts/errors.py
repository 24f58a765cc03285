"""What an error means to somebody at a terminal."""

from __future__ import annotations

import asyncio
from typing import Any

TABLES_MISSING = {"42P01", "42703", "3F000"}


def sentence(error: BaseException) -> str | None:
    """Return one sentence for an error that is to be expected; None for one that is a bug."""
    if isinstance(error, BaseExceptionGroup):
        return sentence(error.exceptions[0])
    if isinstance(error, asyncio.CancelledError):
        return "Stopped."
    for judge in (_own, _settings, _database, _system):
        if said := judge(error):
            return said if said.endswith((".", "?")) or "\n" in said else f"{said}."
    return None


def _own(error: BaseException) -> str | None:
    import sys

    from scripts.session import Refused
    from store.database import DatabaseError

    kinds: list[type[BaseException]] = [Refused, DatabaseError]
    # Whoever did not import a module cannot have had its error.
    for module, name in (
        ("deployments.gateway", "PrefectError"),
        ("deployments.inputs", "InvalidInput"),
        ("deployments.roster_file", "BadRoster"),
        ("deployments.runs", "CannotRun"),
        ("deployments.schedule", "InvalidSchedule"),
        ("scripts.supervise", "CannotStart"),
    ):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return str(error) if isinstance(error, tuple(kinds)) else None


def _settings(error: BaseException) -> str | None:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError) or error.title != "Settings":
        return None
    one = error.errors(include_url=False, include_input=False)[0]
    variable = f"ROTA_{'_'.join(str(part) for part in one['loc'])}".upper()
    return f"{variable}: {one['msg'][0].lower()}{one['msg'][1:]}"


def _database(error: BaseException) -> str | None:
    import asyncpg
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    cause: Any = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig.__cause__ or error.orig
    if not isinstance(error, SQLAlchemyError | asyncpg.PostgresError | asyncpg.InterfaceError):
        return None
    code = str(getattr(cause, "sqlstate", None) or "")
    said = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    if code in TABLES_MISSING:
        return "The database has not the tables of this Rota; run `rota db upgrade`"
    if code == "55P03":
        return "Another process has been writing to Prefect for a minute; try again"
    if code.startswith("23"):
        rule = getattr(cause, "constraint_name", None)
        return f"The database refuses it: {rule or said}"
    if code.startswith("22"):
        return f"The database refuses a value: {said}"
    return f"The definitions database does not do it: {said}"


def _system(error: BaseException) -> str | None:
    if isinstance(error, TimeoutError):
        return "There was no answer in time"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else f"It cannot be done: {reason}"
    return None
