"""Rosters as text: what `rota load` reads and `rota dump` writes; no I/O.

A document names a tenant and its definitions by the names of the columns that belong to the user:

    tenant: acme
    title: Acme Corporation
    definitions:
      - name: nightly-sync
        duty: workflow_run
        cron: "0 3 * * *"
        parameters: {workflow_id: sync}

A file holds one document, a list of them, or several between lines of `---`. What a definition
does not name has its default.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from deployments.desired import Problem, Rules, want
from deployments.yaml_text import Unreadable, is_json, is_text, read, write
from store.loading import TenantRows, differing
from store.models import SPEC_COLUMNS, Definition, Tenant

SLUG = r"[a-z0-9]+(-[a-z0-9]+)*"
OWN = frozenset(column.key for column in Definition.__table__.columns) - {
    *SPEC_COLUMNS,
    "tenant",
    "name",
}
"""The columns that are Rota's to write."""

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
    if isinstance(value, dict) and (why := is_json(value)):
        raise ValueError(f"cannot be stored: {why}")
    return value


Text = Annotated[str, AfterValidator(_clean)]
Instant = Annotated[datetime, BeforeValidator(_instant)]

_AN_INSTANT = "a date and time with its offset from UTC, such as 2026-03-01T08:00:00+01:00"


class Entry(BaseModel):
    """One definition in a file; each description says what the key takes."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    name: str = Field(
        pattern=f"^{SLUG}$",
        max_length=63,
        description="lower-case letters, digits and single dashes, at most 63",
    )
    title: Text | None = Field(None, max_length=255, description="a text of at most 255 characters")
    description: Text | None = Field(
        None, max_length=16384, description="a text of at most 16384 characters"
    )
    duty: Text = Field(description="the name of a duty, such as workflow_run")
    parameters: Annotated[dict[str, Any], BeforeValidator(_keyed), _object(512 * 1024)] = Field(
        {}, description="names and values of the duty's parameters"
    )
    cron: Text | None = Field(None, description="a cron expression in quotes, such as '0 3 * * *'")
    interval_seconds: int | None = Field(None, description="a whole number of seconds from 60 on")
    anchor_at: Instant | None = Field(None, description=_AN_INSTANT)
    run_at: Instant | None = Field(None, description=_AN_INSTANT)
    timezone: Text = Field("UTC", description="the name of a time zone, such as Europe/Berlin")
    day_and: bool = Field(False, description="true or false")
    starts_at: Instant | None = Field(None, description=_AN_INSTANT)
    ends_at: Instant | None = Field(None, description=f"{_AN_INSTANT}, later than starts_at")
    enabled: bool = Field(True, description="true or false")
    paused_until: Instant | None = Field(None, description=_AN_INSTANT)
    pause_note: Text | None = Field(None, description="a text")
    overlap: Literal["allow", "skip", "queue"] = Field("allow", description="allow, skip or queue")
    retries: int = Field(0, ge=0, le=100, description="a whole number from 0 to 100")
    retry_delay_seconds: int = Field(
        0, ge=0, le=86400, description="a whole number of seconds from 0 to 86400"
    )
    timeout_seconds: float | None = Field(
        None, gt=0, description="a number of seconds above 0, or null for none"
    )
    work_pool: Text | None = Field(None, description="the name of a work pool")
    job_variables: Annotated[dict[str, Any], BeforeValidator(_keyed), _object(64 * 1024)] = Field(
        {}, description="names and values of the work pool's variables"
    )
    tags: list[Text] = Field([], max_length=20, description="a list of at most 20 texts")
    keep_runs: int = Field(10, ge=1, lt=2**31, description="a whole number from 1 on")

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Entry:
        if self.starts_at and self.ends_at and self.ends_at <= self.starts_at:
            raise ValueError("ends_at: it is not later than starts_at; give a later one")
        return self

    @property
    def values(self) -> dict[str, Any]:
        """All spec columns."""
        return self.model_dump(exclude={"name"})


@dataclass
class Roster:
    """What a file says of one tenant."""

    tenant: str
    title: str | None = None
    entries: dict[str, Entry] = field(default_factory=dict)

    @property
    def rows(self) -> TenantRows:
        """What is to be written."""
        values = {name: entry.values for name, entry in self.entries.items()}
        return TenantRows(self.tenant, values, self.title)


class BadRoster(ValueError):
    """A file is not as it must be; `errors` has a line for each thing that is wrong."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = list(errors)


@dataclass
class Parsed:
    """What could be read of a file, and what is wrong with the rest."""

    rosters: dict[str, Roster] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


# -- reading


def parse(data: bytes) -> Parsed:
    """Read a file; a bad definition hinders no other.

    Raises:
        BadRoster: It is no YAML.
    """
    try:
        documents = read(data)
    except Unreadable as error:
        raise BadRoster([str(error)]) from None
    parsed = Parsed()
    flat = [one for two in documents for one in (two if isinstance(two, list) else [two])]
    for number, document in enumerate((one for one in flat if one is not None), 1):
        _parse_document(f"document {number}", document, parsed)
    if not parsed.rosters and not parsed.errors:
        parsed.errors.append("the file is empty; begin with `tenant:` and `definitions:`")
    return parsed


def _parse_document(where: str, document: Any, parsed: Parsed) -> None:
    if not isinstance(document, dict):
        parsed.errors.append(f"{where}: it has no keys; begin with `tenant:` and `definitions:`")
        return
    known = ("tenant", "title", "definitions")
    for key in document.keys() - known:
        parsed.errors.append(f"{where}: {key}: there is no such key{_meant(key, known)}")
    tenant = document.get("tenant")
    if not isinstance(tenant, str) or not re.fullmatch(SLUG, tenant) or len(tenant) > 63:
        takes = Entry.model_fields["name"].description
        parsed.errors.append(f"{where}: tenant: {_short(tenant)} does not fit; give {takes}")
        return
    roster = parsed.rosters.setdefault(tenant, Roster(tenant))
    _parse_title(tenant, document.get("title"), roster, parsed)
    definitions = document.get("definitions", [])
    if not isinstance(definitions, list):
        parsed.errors.append(f"{tenant}: definitions: it is no list; begin each with `- name:`")
        return
    for number, one in enumerate(definitions, 1):
        _parse_definition(number, one, roster, parsed)


def _parse_title(tenant: str, title: Any, roster: Roster, parsed: Parsed) -> None:
    if title is None:
        return
    if not isinstance(title, str) or is_text(title):
        parsed.errors.append(f"{tenant}: title: {_short(title)} does not fit; give a text")
    elif roster.title not in (None, title):
        parsed.errors.append(f"{tenant}: title: it stands twice and differs; keep one")
    else:
        roster.title = title


def _parse_definition(number: int, one: Any, roster: Roster, parsed: Parsed) -> None:
    name = one.get("name") if isinstance(one, dict) else None
    where = f"{roster.tenant}/{name}" if isinstance(name, str) else f"{roster.tenant}, no. {number}"
    if not isinstance(one, dict):
        parsed.errors.append(f"{where}: it has no keys; begin with `name:` and `duty:`")
        return
    try:
        entry = Entry.model_validate(one)
    except ValidationError as error:
        parsed.errors += _reasons(where, error)
        return
    if entry.name in roster.entries:
        parsed.errors.append(f"{where}: name: it stands twice in this tenant; rename or remove one")
        return
    roster.entries[entry.name] = entry


def _reasons(where: str, error: ValidationError) -> Iterator[str]:
    for one in error.errors(include_url=False):
        path = ".".join(str(part) for part in one["loc"])
        key = str(one["loc"][0]) if one["loc"] else ""
        said = str(one.get("ctx", {}).get("error", ""))
        takes = Entry.model_fields[key].description if key in Entry.model_fields else ""
        if not key:
            yield f"{where}: {said}"
        elif one["type"] == "extra_forbidden":
            yield f"{where}: {path}: {_unknown(key)}"
        elif one["type"] == "missing":
            yield f"{where}: {path}: it is missing; give {takes}"
        elif ";" in said:
            yield f"{where}: {path}: it {said}"
        else:
            yield f"{where}: {path}: {_short(one['input'])} {said or 'does not fit'}; give {takes}"


def _unknown(key: str) -> str:
    if key == "tenant":
        return "the tenant stands above `definitions:`, once for all; remove it here"
    if key in OWN:
        return "this column is Rota's own, which says what has happened; remove it"
    return f"there is no such key{_meant(key, Entry.model_fields)}"


def _meant(key: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


# -- checking


def check(
    rosters: Iterable[Roster], rules: Rules, at: datetime, existing: Mapping[str, Definition]
) -> list[str]:
    """Return what keeps definitions from becoming deployments, a line for each.

    Args:
        rosters: What the file says.
        rules: What to measure by.
        at: Now, in UTC.
        existing: The rows that are there, by their `tenant/name`.
    """
    errors = []
    for roster in rosters:
        for name, entry in roster.entries.items():
            reference = f"{roster.tenant}/{name}"
            row = existing.get(reference)
            if row is not None and not differing(row, entry.values):
                continue  # it was judged when it was written, and a date may have passed since
            made = row.created_at if row is not None else at
            definition = Definition(
                id=uuid4(),
                tenant=roster.tenant,
                name=name,
                created_at=made,
                updated_at=at,
                **entry.values,
            )
            try:
                want(definition, rules, at)
            except Problem as problem:
                errors.append(f"{reference}: {problem}")
    return errors


# -- writing


def dump(tenants: Iterable[Tenant], definitions: Iterable[Definition]) -> str:
    """Return rows as a file that `parse` takes back as they are."""
    documents = {one.slug: _document(one) for one in tenants}
    for definition in definitions:
        documents[definition.tenant]["definitions"].append(_entry(definition))
    return write(documents.values())


def _document(tenant: Tenant) -> dict[str, Any]:
    title = {} if tenant.title is None else {"title": tenant.title}
    return {"tenant": tenant.slug, **title, "definitions": []}


def _entry(definition: Definition) -> dict[str, Any]:
    said = {"name": definition.name}
    for column in SPEC_COLUMNS:
        value = getattr(definition, column)
        if value != Entry.model_fields[column].get_default(call_default_factory=True):
            said[column] = value.isoformat() if isinstance(value, datetime) else value
    return said
