"""What a caller reads when something is refused: `application/problem+json`, RFC 9457."""

from __future__ import annotations

import http
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from deployments.desired import Problem as CannotBe
from deployments.gateway import PrefectRefused, PrefectUnavailable
from deployments.inputs import InvalidInput
from deployments.reasons import short
from deployments.schedule import InvalidSchedule

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
AWAY_CLASSES = ("08", "53", "57")
"""Classes of SQLSTATE: no connection, no resources left, an operator intervenes."""
MOST = 50
"""Faults that an answer tells of."""
AGAIN_SECONDS = 5
"""After how long to try again what failed because a server is away."""


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    field: str = Field(
        description="Which field, its path joined by dots; empty for the request as a whole",
        examples=["cron"],
    )
    detail: str = Field(
        description="What is wrong with its value, and what to do",
        examples=["'99 * * * *' has 99 as its minute; write 0 to 59"],
    )


class Problem(BaseModel):
    """Why a request was not carried out."""

    model_config = ConfigDict(title="Problem")

    type: str = Field("about:blank", description="RFC 9457's type", examples=["about:blank"])
    title: str = Field(description="The status in words", examples=["Conflict"])
    status: int = Field(description="The HTTP status", examples=[409])
    detail: str = Field(
        description="What happened, and what to do", examples=["The tenant acme is suspended."]
    )
    instance: str = Field(description="The path of the request", examples=["/api/v1/tenants/acme"])
    errors: list[Fault] = Field(description="Each thing that is wrong, if they can be told apart")


class Refused(HTTPException):
    """A request is not carried out.

    Attributes:
        detail: What happened, and what to do.
        errors: What is wrong with which field.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.errors = errors


def unfit(*lines: str) -> Refused:
    """Return the refusal of values that do not fit; each line is `field: what is wrong`."""
    errors = [_faulty(line) for line in lines[:MOST]]
    return Refused(422, "; ".join(lines)[:1000], errors)


def install(app: FastAPI) -> None:
    """Let every error of `app` be answered as a problem."""
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, _answering(handler))


def refusal(error: Exception) -> Refused:
    """Return how an error is answered."""
    handler = next(HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS)
    refused: Refused = handler(error)
    return refused


def response(refused: Refused, path: str) -> Response:
    """Return a refusal as it is sent."""
    body = {
        "type": "about:blank",
        "title": http.HTTPStatus(refused.status_code).phrase,
        "status": refused.status_code,
        "detail": refused.detail,
        "instance": path,
        "errors": [{"field": field, "detail": detail} for field, detail in refused.errors],
    }
    return Response(orjson.dumps(body), refused.status_code, refused.headers, MEDIA_TYPE)


def _answering(handler: Any) -> Any:
    async def answer(request: Request, error: Exception) -> Response:
        refused: Refused = handler(error)
        return response(refused, request.url.path)

    return answer


def _itself(error: Refused) -> Refused:
    return error


def _http(error: HTTPException) -> Refused:
    if error.status_code == 400:  # FastAPI's word for a body that is no JSON at all
        return Refused(422, "The body cannot be read; send JSON as UTF-8, not nested too deep.")
    detail = {
        404: "There is nothing at this address; /api/v1/openapi.json lists what there is.",
        405: "This address does not take that method.",
    }.get(error.status_code, str(error.detail))
    return Refused(error.status_code, detail, headers=error.headers)


def _invalid(error: RequestValidationError) -> Refused:
    faults = []
    for one in error.errors()[:MOST]:
        _, *where = one["loc"]  # the first says whether it is of the path, the query or the body
        path = ".".join(str(part) for part in where)
        said = one["msg"].removeprefix("Value error, ")
        if not where and one["type"] == "value_error":  # of the whole, which names its own field
            faults.append(_faulty(said))
            continue
        shown = short(one.get("input"))
        missing = one["type"] in ("missing", "extra_forbidden", "json_invalid")
        faults.append((path, said if missing else f"{shown}: {said}"))
    detail = "; ".join(f"{field}: {said}" if field else said for field, said in faults)
    return Refused(422, detail[:1000], faults)


def _line(error: Exception) -> Refused:
    return unfit(str(error))


def _database(error: DBAPIError) -> Refused:
    cause: Any = error.orig.__cause__ or error.orig if error.orig is not None else error
    code = str(getattr(cause, "sqlstate", None) or "")
    rule = str(getattr(cause, "constraint_name", None) or "")
    if code == "23505":
        return Refused(409, f"There is one already: {rule}.", [_faulty(rule)])
    if code == "23503":
        return Refused(409, "What it belongs to was deleted meanwhile.")
    if code.startswith("23"):
        said = rule or str(cause)
        return Refused(422, f"The database refuses it: {said}.", [_faulty(said)])
    if code.startswith("22"):
        return Refused(422, f"The database refuses a value: {cause}.")
    if code == "55P03" or code[:2] == "40":
        return Refused(
            503,
            "Somebody else writes the same just now; nothing was written.",
            headers={"Retry-After": "1"},
        )
    if error.connection_invalidated or code[:2] in AWAY_CLASSES:
        return _away(error)
    logger.error("The definitions database does not do it", exc_info=error)
    return _unexpected(error)


def _away(error: BaseException) -> Refused:
    first = str(error).strip().splitlines() or [type(error).__name__]
    logger.warning("The definitions database does not answer: %s", first[0])
    return Refused(
        503,
        "The definitions database does not answer. Read again what was to be written, if anything.",
        headers={"Retry-After": str(AGAIN_SECONDS)},
    )


def _prefect_away(error: PrefectUnavailable) -> Refused:
    return Refused(503, f"{error}.", headers={"Retry-After": str(AGAIN_SECONDS)})


def _prefect_refused(error: PrefectRefused) -> Refused:
    return Refused(409, f"{error}.")


def _unexpected(error: Exception) -> Refused:
    return Refused(500, "Rota failed on this request; its log says where.")


def _faulty(line: str) -> tuple[str, str]:
    field, colon, said = line.partition(": ")
    return (field, said) if colon and re.fullmatch(r"[\w.,-]+( *, *[\w.]+)*", field) else ("", line)


HANDLERS: dict[type[Exception], Any] = {
    Refused: _itself,
    HTTPException: _http,
    RequestValidationError: _invalid,
    InvalidSchedule: _line,
    InvalidInput: _line,
    CannotBe: _line,
    DBAPIError: _database,
    **dict.fromkeys((PoolTimeout, asyncpg.InterfaceError, asyncpg.PostgresError, OSError), _away),
    PrefectUnavailable: _prefect_away,
    PrefectRefused: _prefect_refused,
    Exception: _unexpected,
}


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI is told of the problems of a route, beside those of every route."""
    every = (401, 403, 413, 422, 429, 503, 504)
    return {
        status: {
            "description": http.HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*every, *statuses})
    }
