"""A definition as its user writes it: in a file, or to the API; no I/O."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from deployments.inputs import MOST, NAME_BYTES, declared
from deployments.yaml_text import is_json, is_text

SLUG = r"[a-z0-9]+(-[a-z0-9]+)*"
BLOCK = r"^[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(--?[a-z0-9]+)*$"
DEEPEST = 64
"""Lists and objects in one another; the database takes no more."""
MOST_UNKNOWN = 50
"""Fields beyond those that there are; each that is named takes memory."""

_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def _instant(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is no date and time") from None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError("has no time zone")
        if not _FIRST <= value <= _LAST:
            raise ValueError("is not from the year 1900 to 9000")
    return value


def _clean(value: str) -> str:
    if why := is_text(value):
        raise ValueError(f"cannot be stored: {why}")
    return value


def _object(most_bytes: int) -> AfterValidator:
    def check(value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value, ensure_ascii=False).encode()) > most_bytes:
            raise ValueError(f"is larger than {most_bytes // 1024} KiB as text")
        return value

    return AfterValidator(check)


def _keyed(value: Any) -> Any:
    if isinstance(value, dict) and (why := is_json(_shallow(value))):
        raise ValueError(f"cannot be stored: {why}")
    return value


def _shallow(value: Any) -> Any:
    if _is_deeper(value, DEEPEST):
        raise ValueError(f"is nested more than {DEEPEST} deep")
    return value


def _is_deeper(value: Any, most: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(inner) and (most == 0 or any(_is_deeper(one, most - 1) for one in inner))


Text = Annotated[str, AfterValidator(_clean)]
Instant = Annotated[datetime, BeforeValidator(_instant)]
InputName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=NAME_BYTES)]
Shallow = Annotated[dict[str, Any], BeforeValidator(_shallow)]
Parameters = Annotated[dict[str, Any], BeforeValidator(_keyed), _object(512 * 1024)]

_AN_INSTANT = "a date and time with its offset from UTC, such as 2026-03-01T08:00:00+01:00"


class Strict(BaseModel):
    """What comes from outside: nothing more than what it says."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, said: Any) -> Any:
        most = len(cls.model_fields) + MOST_UNKNOWN
        if isinstance(said, dict) and len(said) > most:
            raise ValueError(f"it has {len(said)} fields; there are {', '.join(cls.model_fields)}")
        return said


class InputEntry(Strict):
    """One input of a definition; each description says what the key takes."""

    name: InputName = Field(
        description="letters, digits, _, . and -, a letter or _ first, at most 128",
        examples=["branch"],
    )
    required: bool = Field(False, description="true or false", examples=[True])
    description: Text | None = Field(
        None,
        max_length=1024,
        description="a text of at most 1024 characters",
        examples=["What to build"],
    )
    default: Text | None = Field(
        None, description="a text of at most 4096 bytes", examples=["main"]
    )
    options: list[Text] = Field(
        [], max_length=MOST, description="a list of at most 100 texts", examples=[["main", "next"]]
    )
    regex: Text | None = Field(
        None, description="a pattern of RE2 of at most 512 bytes", examples=["^[a-z0-9/-]+$"]
    )


class Entry(Strict):
    """One definition in a file; each description says what the key takes."""

    name: str = Field(
        pattern=f"^{SLUG}$",
        max_length=63,
        description="lower-case letters, digits and single dashes, at most 63",
        examples=["nightly-sync"],
    )
    title: Text | None = Field(
        None,
        max_length=255,
        description="a text of at most 255 characters",
        examples=["Nightly sync"],
    )
    description: Text | None = Field(
        None,
        max_length=16384,
        description="a text of at most 16384 characters",
        examples=["Starts the sync workflow once a night."],
    )
    duty: Text = Field(
        description="the name of a duty, such as workflow_run", examples=["workflow_run"]
    )
    parameters: Parameters = Field(
        {},
        description="names and values of the duty's parameters",
        examples=[{"workflow_id": "sync"}],
    )
    inputs: list[InputEntry] = Field(
        [],
        max_length=MOST,
        description="what whoever starts a run may say, a list of at most 100 inputs",
        examples=[[{"name": "branch", "default": "main"}]],
    )
    cron: Text | None = Field(
        None, description="a cron expression in quotes, such as '0 3 * * *'", examples=["0 3 * * *"]
    )
    interval_seconds: int | None = Field(
        None, description="a whole number of seconds from 60 on", examples=[3600]
    )
    anchor_at: Instant | None = Field(
        None, description=_AN_INSTANT, examples=["2026-03-01T08:00:00+01:00"]
    )
    run_at: Instant | None = Field(
        None, description=_AN_INSTANT, examples=["2026-03-01T08:00:00+01:00"]
    )
    after_seconds: int | None = Field(
        None,
        description="a whole number of seconds from 1 on: once, so long after the previous run",
        examples=[3600],
    )
    timezone: Text = Field(
        "UTC",
        description="the name of a time zone, such as Europe/Berlin",
        examples=["Europe/Berlin"],
    )
    day_and: bool = Field(False, description="true or false", examples=[False])
    starts_at: Instant | None = Field(
        None, description=_AN_INSTANT, examples=["2026-03-01T08:00:00+01:00"]
    )
    ends_at: Instant | None = Field(
        None,
        description=f"{_AN_INSTANT}, later than starts_at",
        examples=["2027-03-01T08:00:00+01:00"],
    )
    enabled: bool = Field(True, description="true or false", examples=[True])
    paused_until: Instant | None = Field(
        None, description=_AN_INSTANT, examples=["2026-03-01T08:00:00+01:00"]
    )
    pause_note: Text | None = Field(None, description="a text", examples=["The provider is down."])
    overlap: Literal["allow", "skip", "queue"] = Field(
        "allow", description="allow, skip or queue", examples=["skip"]
    )
    retries: int = Field(0, ge=0, le=100, description="a whole number from 0 to 100", examples=[3])
    retry_delay_seconds: int = Field(
        0, ge=0, le=86400, description="a whole number of seconds from 0 to 86400", examples=[60]
    )
    timeout_seconds: float | None = Field(
        None, gt=0, description="a number of seconds above 0, or null for none", examples=[300]
    )
    work_pool: Text | None = Field(None, description="the name of a work pool", examples=["rota"])
    job_variables: Annotated[dict[str, Any], BeforeValidator(_keyed), _object(64 * 1024)] = Field(
        {},
        description="names and values of the work pool's variables",
        examples=[{"env": {"LANG": "C"}}],
    )
    tags: list[Text] = Field(
        [], max_length=20, description="a list of at most 20 texts", examples=[["nightly"]]
    )
    keep_runs: int = Field(
        10, ge=1, lt=2**31, description="a whole number from 1 on", examples=[10]
    )

    pause_after_failures: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="failures in a row that pause it, from 1 to 1000, or null for never",
        examples=[5],
    )
    notify: list[Annotated[str, Field(pattern=BLOCK, max_length=200)]] = Field(
        [],
        max_length=20,
        description="full names of notification blocks, such as slack-webhook/ops, at most 20",
        examples=[["slack-webhook/ops"]],
    )
    notify_on: list[Literal["failure", "recovery", "success"]] = Field(
        ["failure", "recovery"],
        max_length=3,
        description="a list of failure, recovery and success",
        examples=[["failure", "recovery"]],
    )
    notify_after: int = Field(
        1,
        ge=1,
        le=1000,
        description="failures in a row that are told as one, from 1 to 1000",
        examples=[3],
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Entry:
        if self.starts_at and self.ends_at and self.ends_at <= self.starts_at:
            raise ValueError("ends_at: it is not later than starts_at; give a later one")
        declared(self._inputs)
        return self

    @property
    def values(self) -> dict[str, Any]:
        """All spec columns."""
        return {**self.model_dump(exclude={"name", "inputs"}), "inputs": self._inputs}

    @property
    def _inputs(self) -> list[dict[str, Any]]:
        return [one.model_dump(exclude_defaults=True) for one in self.inputs]
