"""Semaphore's periodic tasks become definitions; no I/O.

    apiVersion: v1.1
    kind: Schedule
    metadata: {name: Nightly build}
    spec:
      project: web
      recurring: true
      branch: main
      at: 0 3 * * *
      pipeline_file: .semaphore/nightly.yml

The three versions of that form are those of Semaphore's periodic scheduler. What each key becomes,
and what is refused, stands in `docs/semaphore.md`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from deployments import reasons
from deployments.cron import Malformed
from deployments.entry import InputEntry, InputName, Strict, Text
from deployments.inputs import MOST, InvalidInput, declared
from deployments.semaphore_cron import translated

DUTY = "workflow_run"

TAKEN = (
    *("project", "reference", "reference_type", "pipeline_file"),
    *("triggerType", "scheduleId", "triggerTime"),
)
"""What a workflow is told anyway, beside its inputs."""


class BadSchedule(ValueError):
    """A document cannot become a definition; `errors` has a line for each thing that is wrong."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


# -- their form


NonEmpty = Annotated[Text, Field(min_length=1)]

_CRON = "a cron expression in quotes, such as '0 3 * * *'"
_FILE = "the path of a pipeline file, such as .semaphore/nightly.yml"
_BRANCH = "the name of a branch"
_SWITCH = "true or false"


class _Parameter(Strict):
    name: InputName = Field(description=InputEntry.model_fields["name"].description)
    required: bool = Field(description=_SWITCH)
    description: Text | None = Field(
        None, max_length=1024, description="a text of at most 1024 characters"
    )
    default_value: Text | None = Field(None, description="a text of at most 4096 bytes")
    options: list[Text] = Field([], max_length=MOST, description="a list of at most 100 texts")
    regex_pattern: Text | None = Field(None, description="a pattern of RE2 of at most 512 bytes")
    validate_input_format: bool = Field(False, description=_SWITCH)


class _Reference(Strict):
    type: Literal["BRANCH", "TAG", "PR"] = Field(description="BRANCH, TAG or PR")
    name: NonEmpty = Field(description="the name of a branch or tag, or the number of a PR")


class _First(Strict):
    project: NonEmpty = Field(description="the name of a project")
    branch: NonEmpty = Field(description=_BRANCH)
    at: NonEmpty = Field(description=_CRON)
    pipeline_file: NonEmpty = Field(description=_FILE)
    paused: bool = Field(False, description=_SWITCH)


class _Later(Strict):
    project: NonEmpty = Field(description="the name of a project")
    recurring: bool = Field(description=_SWITCH)
    at: NonEmpty | None = Field(None, description=_CRON)
    pipeline_file: NonEmpty | None = Field(None, description=_FILE)
    paused: bool = Field(False, description=_SWITCH)
    parameters: list[_Parameter] = Field([], description="a list of parameters")


class _Second(_Later):
    branch: NonEmpty | None = Field(None, description=_BRANCH)


class _Third(_Later):
    reference: _Reference = Field(description="an object of type and name")


class _Metadata(Strict):
    name: NonEmpty = Field(max_length=255, description="a text of at most 255 characters")
    id: str | None = Field(None, description="a text")  # Semaphore's own, and none of Rota's
    description: Text | None = Field(
        None, max_length=16384, description="a text of at most 16384 characters"
    )


class _Document(Strict):
    apiVersion: str = Field(description="v1.0, v1.1 or v1.2")
    kind: Literal["Schedule"] = Field(description="Schedule")
    metadata: _Metadata = Field(description="an object of name and description")


class _V10(_Document):
    spec: _First = Field(description="an object of project, branch, at and pipeline_file")


class _V11(_Document):
    spec: _Second = Field(description="an object of project, recurring and more")


class _V12(_Document):
    spec: _Third = Field(description="an object of project, recurring, reference and more")


VERSIONS: Mapping[str, type[_V10 | _V11 | _V12]] = {"v1.0": _V10, "v1.1": _V11, "v1.2": _V12}

_SURPLUS = {
    "v1.0": {
        "spec.recurring": "v1.0 knows only what recurs; remove it, or give apiVersion v1.1",
        "spec.parameters": "v1.0 knows none; remove them, or give apiVersion v1.1",
        "spec.reference": "v1.0 has `branch`; give that, or apiVersion v1.2",
    },
    "v1.1": {"spec.reference": "v1.1 has `branch`; give that, or apiVersion v1.2"},
    "v1.2": {"spec.branch": "v1.2 has `reference: {type: BRANCH, name: ...}`; give that"},
}


# -- what becomes of it


def is_its(document: Mapping[Any, Any]) -> bool:
    """Tell whether a document is one of Semaphore's."""
    return "kind" in document or "apiVersion" in document


def entry(document: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a document of the kind Schedule as a definition, in the form of a roster.

    Raises:
        BadSchedule: It is not as Semaphore takes it, or says what Rota cannot do.
    """
    said = _read(document)
    spec: dict[str, Any] = said.spec.model_dump(exclude_none=True)
    errors: list[str] = []
    found = {
        **_named(said.metadata, errors),
        "duty": DUTY,
        "parameters": {"workflow_id": spec["project"], "input": _told(spec)},
        "inputs": _inputs(spec, errors),
        **_timed(spec, errors),
    }
    if errors:
        raise BadSchedule(errors)
    return found


def _read(document: Mapping[Any, Any]) -> _V10 | _V11 | _V12:
    version = document.get("apiVersion")
    for key, there in (("kind", ["Schedule"]), ("apiVersion", list(VERSIONS))):
        if document.get(key) not in there:
            given = f"{reasons.short(document.get(key))} does not fit"
            said = given if key in document else "it is missing"
            raise BadSchedule([f"{key}: {said}; give {', '.join(there)}"])
    model = VERSIONS[str(version)]
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise BadSchedule([*reasons.lines(error, model, _SURPLUS[str(version)])]) from None


def _named(metadata: _Metadata, errors: list[str]) -> dict[str, Any]:
    plain = unicodedata.normalize("NFKD", metadata.name).casefold().encode("ascii", "ignore")
    name = re.sub("[^a-z0-9]+", "-", plain.decode()).strip("-")
    if not 0 < len(name) <= 63:
        problem = f"makes a name of {len(name)} characters" if name else "has nothing to name it by"
        errors.append(
            f"metadata.name: {reasons.short(metadata.name)} {problem}; give 1 to 63 letters from a "
            "to z, digits and spaces"
        )
    found = {"name": name}
    if metadata.name != name:
        found["title"] = metadata.name
    if metadata.description:
        found["description"] = metadata.description
    return found


def _told(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return what the workflow is told: the project, and which file of which revision."""
    told = {"project": spec["project"]}
    reference = spec.get("reference")
    if "branch" in spec:
        reference = {"type": "BRANCH", "name": spec["branch"]}
    if reference:
        told |= _reference(reference["type"], reference["name"])
    if "pipeline_file" in spec:
        told["pipeline_file"] = spec["pipeline_file"]
    return told


def _reference(kind: str, name: str) -> dict[str, str]:
    """Return a Git reference; a full one, such as `refs/tags/v1`, says its kind itself."""
    for full, pattern in _FULL.items():
        if match := re.fullmatch(pattern, name):
            kind, name = full, match[1]
    return {"reference": name, "reference_type": kind}


_FULL = {"BRANCH": "refs/heads/(.+)", "TAG": "refs/tags/(.+)", "PR": "refs/pull/([^/]+)/head"}


# -- inputs


def _inputs(spec: Mapping[str, Any], errors: list[str]) -> list[dict[str, Any]]:
    inputs = []
    for one in spec.get("parameters", ()):
        where = f"spec.parameters.{one['name']}"
        if one["name"] in TAKEN:
            errors.append(f"{where}: the workflow is told another value by this name; rename it")
        if one["validate_input_format"] and not one.get("regex_pattern"):
            errors.append(
                f"{where}.regex_pattern: it is missing where validate_input_format is true; give a "
                "pattern, or false there"
            )
        ours = _input(one)
        try:
            declared([ours])
        except InvalidInput as bad:
            errors.append(_in_their_words(str(bad)))
        inputs.append(ours)
    told = _told(spec)
    # Semaphore starts no run without them either, by hand or not.
    asked = [name for name in ("reference", "pipeline_file") if name not in told]
    return inputs + [{"name": name, "required": True} for name in asked]


def _input(one: Mapping[str, Any]) -> dict[str, Any]:
    pattern = one.get("regex_pattern") if one["validate_input_format"] else None
    ours = {
        "name": one["name"],
        "required": one["required"],
        "description": one.get("description"),
        "default": one.get("default_value"),
        "options": one["options"],
        "regex": pattern,
    }
    return {key: value for key, value in ours.items() if value}


def _in_their_words(line: str) -> str:
    path, _, said = line.partition(": ")
    path = re.sub(r"^inputs\.", "spec.parameters.", path)
    path = re.sub(r"\.default$", ".default_value", path)
    return f"{re.sub(r'[.]regex$', '.regex_pattern', path)}: {said}"


# -- when


def _timed(spec: Mapping[str, Any], errors: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"enabled": False} if spec["paused"] else {}
    if not spec.get("recurring", True):
        return found
    at = spec.get("at")
    if at is None:
        errors.append(f"spec.at: it is missing where recurring is true; give {_CRON}")
        return found
    try:
        return {**found, "cron": translated(at), "timezone": "UTC", "day_and": True}
    except Malformed as bad:
        errors.append(f"spec.at: {at!r:.80} {bad.problem}; {bad.remedy}")
        return found
