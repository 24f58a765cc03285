"""What the kinds of steps take, as far as it can be told before a run; no I/O.

A part of an input may be worked out at the run: `{"$template": "..."}` is rendered by Jinja2,
`{"$from": "steps.fetch.output.body"}` is what stands there, and a header of `http` may be
`{"$secret": "name"}`. Any other text is just that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator

TEMPLATE, FROM, SECRET = "$template", "$from", "$secret"
WRAPPERS = (TEMPLATE, FROM, SECRET)

T = TypeVar("T")


def wrapped(value: Any) -> str | None:
    """Return which of `WRAPPERS` a value is, or None for what is meant as it stands."""
    if isinstance(value, Mapping) and len(value) == 1:
        (key,) = value
        return key if key in WRAPPERS else None
    return None


def wrappers(value: Any, where: str = "input") -> Iterator[tuple[str, str, Any]]:
    """Yield where in a value which wrapper stands, and what it wraps."""
    if (kind := wrapped(value)) is not None:
        yield where, kind, value[kind]
        return
    inner = dict(enumerate(value)) if isinstance(value, list) else value
    for key, one in inner.items() if isinstance(inner, Mapping) else ():
        yield from wrappers(one, f"{where}.{key}")


def _or_later(value: Any, check: Any) -> Any:
    return value if wrapped(value) in (TEMPLATE, FROM) else check(value)


def _or_secret(value: Any, check: Any) -> Any:
    return value if wrapped(value) is not None else check(value)


def _address(value: str) -> str:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - it may be none
    except ValueError:
        raise ValueError("is no address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is no address of http or https")
    if "@" in parts.netloc:
        raise ValueError("holds a user or a password; send it in a header, as {$secret: name}")
    return value


Later = Annotated[T, WrapValidator(_or_later)]
Filled = Annotated[str, Field(min_length=1)]
Url = Annotated[str, Field(max_length=8000), AfterValidator(_address)]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Status = Annotated[int, Field(ge=100, le=599)]
Statuses = Annotated[list[Status], Field(min_length=1, max_length=50)]
Header = Annotated[str, Field(max_length=8000, pattern=r"^[\t\x20-\x7e]*$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,100}$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")]
Headers = dict[HeaderName, Annotated[Header, WrapValidator(_or_secret)]]


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Http(_Input):
    """A request. `body` is a text, `json` a value; one of both."""

    url: Later[Url]
    method: Later[Method] = "GET"
    headers: Annotated[Headers, Field(max_length=50)] = {}
    body: Later[str | None] = None
    json_: Any = Field(None, alias="json")
    expect_status: Later[Statuses | None] = None


class Command(_Input):
    """A command of the shell; what comes from elsewhere goes into its environment."""

    command: Annotated[str, Field(min_length=1, max_length=65_536)]
    environment: Annotated[dict[Variable, Later[str]], Field(max_length=100)] = {}
    directory: Annotated[str, Field(min_length=1, max_length=4096)] | None = None


class Slack(_Input):
    """A message, through one of Prefect's notification blocks."""

    block: Later[Annotated[str, Field(pattern=r"^[^/]+/[^/]+$", max_length=200)]]
    text: Later[Filled]
    subject: Later[str | None] = None


class Log(_Input):
    """A line in the run's log."""

    text: Later[str]
    level: Later[Literal["debug", "info", "warning", "error"]] = "info"


class Workflow(_Input):
    """A start of a workflow, through a Workflow Service block."""

    workflow_id: Later[Filled]
    input: Any = None
    service: Later[Filled] = "default"


KINDS: Mapping[str, type[BaseModel]] = {
    "http": Http,
    "command": Command,
    "slack": Slack,
    "log": Log,
    "workflow": Workflow,
}


def faults(kind: str, value: Any, *, part: bool = False) -> Iterator[str]:
    """Yield what keeps an input from being one that a kind takes, each with its field.

    Args:
        kind: Which kind, perhaps none of `KINDS`.
        value: The input.
        part: More may come from a step, so that nothing is missing.
    """
    if kind not in KINDS:
        yield f"kind: {kind!r:.60} is none; give one of {', '.join(KINDS)}"
        return
    for where, wrapper, said in wrappers(value):
        if wrapper == SECRET and not (kind == "http" and where.startswith("input.headers.")):
            yield f"{where}: {SECRET} stands for the value of a header of http only; move it there"
        elif not isinstance(said, str) or not said:
            yield f"{where}: {wrapper} takes a text; write it in quotes"
    if wrapped(value) is not None:
        # Of any other kind it would be for whoever answers to say what is done.
        if kind != "log":
            yield (
                "input: only a log takes all of it from elsewhere; say the input's fields, and "
                "wrap the values that come from elsewhere"
            )
        return
    try:
        KINDS[kind].model_validate(value)
    except ValidationError as error:
        for one in error.errors(include_url=False)[:20]:
            if not (part and one["type"] == "missing"):
                path = ".".join(str(step) for step in one["loc"])
                yield f"input.{path}: {_said(one, kind)}"
        return
    if value.get("body") is not None and "json" in value:
        yield "input.json: body is given too; leave one of both out"


def _said(one: Any, kind: str) -> str:
    if one["type"] == "missing":
        return f"it is missing; {kind} needs it"
    if one["type"] == "extra_forbidden":
        names = [field.alias or name for name, field in KINDS[kind].model_fields.items()]
        return f"{kind} takes no such thing; it takes {', '.join(names)}"
    said = one["msg"].removeprefix("Value error, ")
    return f"{one['input']!r:.60}: {said}"
