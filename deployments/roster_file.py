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
does not name has its default. Where it is known whose definitions they are, a document need not
name its tenant, and may also be one of Semaphore's (see `deployments.semaphore`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from deployments import reasons as reasoning
from deployments import semaphore
from deployments.desired import Problem, Rules, want
from deployments.entry import SLUG, Entry
from deployments.reasons import meant, short
from deployments.yaml_text import Unreadable, is_text, read, write
from store.loading import TenantRows, differing
from store.models import SPEC_COLUMNS, Definition, Tenant

OWN = frozenset(column.key for column in Definition.__table__.columns) - {
    *SPEC_COLUMNS,
    "tenant",
    "name",
}
"""The columns that are Rota's to write."""

_SURPLUS = {
    **dict.fromkeys(OWN, "this column is Rota's own, which says what has happened; remove it"),
    "tenant": "the tenant stands above `definitions:`, once for all; remove it here",
}


MOST_ERRORS = 200


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


def parse(data: bytes, tenant: str | None = None) -> Parsed:
    """Read a file; a bad definition hinders no other.

    Args:
        data: The file.
        tenant: Whose definitions they are; None if each document says so.

    Raises:
        BadRoster: It is no YAML.
    """
    try:
        documents = read(data)
    except Unreadable as error:
        raise BadRoster([str(error)]) from None
    flat = [one for two in documents for one in (two if isinstance(two, list) else [two])]
    return parse_documents([one for one in flat if one is not None], tenant)


def parse_documents(documents: Sequence[Any], tenant: str | None = None) -> Parsed:
    """Read documents that are Python's lists and objects already; see `parse`."""
    parsed = Parsed()
    for number, document in enumerate(documents, 1):
        _parse_document(f"document {number}", document, tenant, parsed)
    if not documents:
        parsed.errors.append(f"the file is empty; {_begin(tenant)}")
    return parsed


def reasons(where: str, error: ValidationError) -> Iterator[str]:
    """Yield what is wrong with a definition, each line after the address `where`."""
    for line in reasoning.lines(error, Entry, _SURPLUS):
        yield f"{where}: {line}"


def _begin(tenant: str | None) -> str:
    return "begin with `definitions:`" if tenant else "begin with `tenant:` and `definitions:`"


def _parse_document(where: str, document: Any, tenant: str | None, parsed: Parsed) -> None:
    if not isinstance(document, dict):
        parsed.errors.append(f"{where}: it has no keys; {_begin(tenant)}")
        return
    if semaphore.is_its(document):
        _parse_schedule(where, document, tenant, parsed)
        return
    known = ("tenant", "title", "definitions")
    for key in document:
        if key not in known:
            parsed.errors.append(f"{where}: {key}: there is no such key{meant(key, known)}")
    roster = _roster(where, document.get("tenant", tenant), tenant, parsed)
    if roster is None:
        return
    _parse_title(document.get("title"), roster, parsed)
    if tenant is not None and "definitions" not in document:
        # Or what is empty by mistake would prune everything.
        parsed.errors.append(f"{tenant}: definitions: it is missing; give a list, or [] for none")
        return
    definitions = document.get("definitions", [])
    if not isinstance(definitions, list):
        parsed.errors.append(
            f"{roster.tenant}: definitions: it is no list; begin each with `- name:`"
        )
        return
    for number, one in enumerate(definitions, 1):
        if len(parsed.errors) >= MOST_ERRORS:
            parsed.errors.append(f"{roster.tenant}: definitions: no more than these are told")
            return
        _parse_definition(number, one, roster, parsed)


def _roster(where: str, said: Any, tenant: str | None, parsed: Parsed) -> Roster | None:
    if not isinstance(said, str) or not re.fullmatch(SLUG, said) or len(said) > 63:
        takes = Entry.model_fields["name"].description
        parsed.errors.append(f"{where}: tenant: {short(said)} does not fit; give {takes}")
    elif tenant not in (None, said):
        parsed.errors.append(
            f"{where}: tenant: {said!r} is another than {tenant!r}, whose definitions these are "
            "to be; remove the document, or write to that tenant"
        )
    else:
        return parsed.rosters.setdefault(said, Roster(said))
    return None


def _parse_title(title: Any, roster: Roster, parsed: Parsed) -> None:
    if title is None:
        return
    if not isinstance(title, str) or is_text(title) or len(title) > 255:
        parsed.errors.append(
            f"{roster.tenant}: title: {short(title)} does not fit; give a text of at most 255 "
            "characters"
        )
    elif roster.title not in (None, title):
        parsed.errors.append(f"{roster.tenant}: title: it stands twice and differs; keep one")
    else:
        roster.title = title


def _parse_definition(number: int, one: Any, roster: Roster, parsed: Parsed) -> None:
    name = one.get("name") if isinstance(one, dict) else None
    where = f"{roster.tenant}/{name}" if isinstance(name, str) else f"{roster.tenant}, no. {number}"
    if not isinstance(one, dict):
        parsed.errors.append(f"{where}: it has no keys; begin with `name:` and `duty:`")
        return
    _add(where, one, roster, parsed)


def _parse_schedule(
    where: str, document: dict[Any, Any], tenant: str | None, parsed: Parsed
) -> None:
    if tenant is None:
        parsed.errors.append(
            f"{where}: kind: {short(document.get('kind'))} is Semaphore's, which names no tenant; "
            "say whose it is with `rota load --tenant`"
        )
        return
    roster = _roster(where, tenant, tenant, parsed)
    if roster is None:
        return
    try:
        one = semaphore.entry(document)
    except semaphore.BadSchedule as bad:
        parsed.errors += [f"{where}: {line}" for line in bad.errors]
        return
    _add(f"{tenant}/{one['name']}", one, roster, parsed)


def _add(where: str, one: dict[str, Any], roster: Roster, parsed: Parsed) -> None:
    try:
        entry = Entry.model_validate(one)
    except ValidationError as error:
        parsed.errors += reasons(where, error)
        return
    if entry.name in roster.entries:
        parsed.errors.append(f"{where}: name: it stands twice in this tenant; rename or remove one")
        return
    roster.entries[entry.name] = entry


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
                last_run_at=row.last_run_at if row is not None else None,
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
