"""What a definition lets whoever starts a run say: named texts, checked; no I/O.

    inputs:
      - name: branch
        required: true
        default: main
        regex: "^[a-z0-9/-]+$"

They go into the duty's parameter `input`. A run by schedule has their defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import re2

from deployments.yaml_text import is_text

MOST = 100
"""Inputs of one definition, and options of one input."""
NAME_BYTES = 128
REGEX_BYTES = 512
VALUE_BYTES = 4096

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.never_capture = True
# Bytes of a compiled pattern. Time is linear in a value's length and in this: at worst some 0.3 s.
_OPTIONS.max_mem = 256 * 1024


class InvalidInput(ValueError):
    """An input, or a value for one, is not as it must be; the message names both and the remedy."""


@dataclass(frozen=True)
class Input:
    """One declared input.

    Attributes:
        name: How it is given; letters, digits, `_`, `.`, `-`.
        required: Whether a run must have a value for it.
        description: For people.
        default: The value where none is given.
        options: The values that it may have; empty for any.
        regex: What has to be found in a value, in RE2's syntax.
    """

    name: str
    required: bool = False
    description: str | None = None
    default: str | None = None
    options: tuple[str, ...] = ()
    regex: str | None = None


def declared(rows: Iterable[Mapping[str, Any]]) -> tuple[Input, ...]:
    """Return the inputs that the column `inputs` of a definition declares.

    Raises:
        InvalidInput: One of them cannot be.
    """
    found: dict[str, Input] = {}
    for number, row in enumerate(rows):
        one = _declare(number, row)
        if one.name in found:
            raise InvalidInput(f"inputs.{one.name}: it is declared twice; remove one")
        found[one.name] = one
    if len(found) > MOST:
        raise InvalidInput(f"inputs: there are {len(found)}; declare at most {MOST}")
    return tuple(found.values())


def defaults(inputs: Iterable[Input]) -> dict[str, str]:
    """Return the values that a run has where nobody gives any."""
    return {one.name: one.default for one in inputs if one.default and one.default.strip()}


def filled(
    inputs: Sequence[Input], parameters: Mapping[str, Any], values: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the parameters of a run, with the inputs in its parameter `input`.

    What is given counts most, then what `parameters` say, then the defaults.

    Args:
        inputs: Those that the definition declares.
        parameters: Of the definition, or of the definition and the run.
        values: What is given to the run; None for a run by schedule, which may lack any.

    Raises:
        InvalidInput: A value is missing, too long, or does not fit; or nothing of that name is
            declared.
    """
    if not inputs and not values:
        return dict(parameters)
    given = {} if values is None else _given(inputs, values)
    own = {} if parameters.get("input") is None else parameters["input"]
    if not isinstance(own, Mapping):
        raise InvalidInput(
            f"parameters.input: {own!r:.60} is no object; write names and values, to which the "
            "inputs are added"
        )
    for one in inputs:
        if one.name in own:
            _check_text(f"parameters.input.{one.name}", own[one.name])
            _check(f"parameters.input.{one.name}", own[one.name], one)
    merged = {**defaults(inputs), **own, **given}
    if values is not None:
        for one in inputs:
            if one.required and not merged.get(one.name):
                raise InvalidInput(f"inputs.{one.name}: it is required; give a value")
    return {**parameters, "input": merged}


def _given(inputs: Iterable[Input], values: Mapping[str, Any]) -> dict[str, str]:
    known = {one.name: one for one in inputs}
    for name in values:
        if name not in known:
            raise InvalidInput(
                f"inputs.{name[:60]}: nothing of this name is declared; there are "
                f"{', '.join(known) or 'none'}"
            )
    given = {}
    for name, one in known.items():  # in the order in which they are declared
        value = values.get(name)
        if value is None:
            continue
        _check_text(f"inputs.{name}", value)
        if text := value.strip():
            _check(f"inputs.{name}", text, one)
            given[name] = text
    return given


def _declare(number: int, row: Any) -> Input:
    where = f"inputs.{number}"
    if not isinstance(row, Mapping):
        raise InvalidInput(f"{where}: it is no object; begin with its name")
    name = row.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > NAME_BYTES:
        raise InvalidInput(
            f"{where}.name: {name!r:.60} does not fit; give letters, digits, _, . and -, a letter "
            f"or _ first, at most {NAME_BYTES}"
        )
    where = f"inputs.{name}"
    for key in row.keys() - Input.__dataclass_fields__.keys():
        known = ", ".join(Input.__dataclass_fields__)
        raise InvalidInput(f"{where}.{key!s:.60}: there is no such key; there are {known}")
    required = row.get("required", False)
    if not isinstance(required, bool):
        raise InvalidInput(f"{where}.required: {required!r:.60} does not fit; give true or false")
    for key in ("description", "default", "regex"):
        if row.get(key) is not None:
            _check_text(f"{where}.{key}", row[key])
    options = [] if row.get("options") is None else row["options"]
    if not isinstance(options, list):
        raise InvalidInput(f"{where}.options: {options!r:.60} is no list; give a list of texts")
    if len(options) > MOST:
        raise InvalidInput(f"{where}.options: there are {len(options)}; give at most {MOST}")
    for option in options:
        _check_text(f"{where}.options", option)
        _check_length(f"{where}.options", option)
    one = Input(
        name, required, row.get("description"), row.get("default"), tuple(options), row.get("regex")
    )
    _check_declared(where, one)
    return one


def _check_declared(where: str, one: Input) -> None:
    if one.regex is not None:
        check_regex(f"{where}.regex", one.regex)
    if one.default:
        _check(f"{where}.default", one.default, one)


def check_regex(where: str, regex: str) -> None:
    """See that a text is a pattern of RE2 that takes little to match.

    Raises:
        InvalidInput: It is none; the message begins with `where`.
    """
    _check_length(where, regex, REGEX_BYTES)
    try:
        re2.compile(regex, options=_OPTIONS)
    except re2.error as error:
        said = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        if "too large" in said:
            raise InvalidInput(
                f"{where}: {regex!r:.60} takes too much memory; repeat less in it"
            ) from None
        raise InvalidInput(
            f"{where}: {regex!r:.60} is no pattern of RE2 ({said}); mend it, without "
            "backreferences and lookarounds, which RE2 has not"
        ) from None


def _check(where: str, value: str, one: Input) -> None:
    _check_length(where, value)
    if one.options and value not in one.options:
        raise InvalidInput(
            f"{where}: {value!r:.60} is not among its options; give one of "
            f"{', '.join(one.options):.200}"
        )
    if one.regex is not None and not re2.search(one.regex, value, options=_OPTIONS):
        raise InvalidInput(
            f"{where}: {value!r:.60} does not match {one.regex}; give a value that does"
        )


def _check_text(where: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: {value!r:.60} is no text; write it in quotes")
    if why := is_text(value):
        raise InvalidInput(f"{where}: {value!r:.60} cannot be stored: {why}")


def _check_length(where: str, value: str, most: int = VALUE_BYTES) -> None:
    if len(value.encode()) > most:
        raise InvalidInput(
            f"{where}: {value!r:.60} is longer than {most:,} bytes as UTF-8; shorten it"
        )
