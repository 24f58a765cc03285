"""What a step's input comes to: its values, its templates, and what earlier steps have put out."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from blocks.templating import TemplateError, render

TEMPLATE, FROM, SECRET = "$template", "$from", "$secret"

DEEPEST = 64
"""Lists and objects in one another; Rota's API takes no more."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class Unfit(Exception):
    """A step cannot be done as it is; another try would end the same way."""


async def filled(value: Any, context: Mapping[str, Any]) -> Any:
    """Return an input with its templates rendered and its paths followed; secrets stay named.

    Args:
        value: The input, of JSON.
        context: What templates and paths can read.

    Raises:
        Unfit: A template cannot be rendered, or a path leads nowhere.
    """
    templates: list[str] = []
    _each(value, TEMPLATE, lambda said: templates.append(said))
    rendered: list[str] = []
    for one in [templates] if templates else []:
        try:
            rendered = await render(one, context)
        except TemplateError as error:
            raise Unfit(f"A template of its input cannot be rendered: {error}") from None
    left = iter(rendered)
    value = _each(value, TEMPLATE, lambda said: next(left))
    return _each(value, FROM, lambda said: _data(said, context))


def _data(path: str, context: Mapping[str, Any]) -> Any:
    found = followed(path.split("."), context, path)
    if isinstance(found, Mapping) and found.keys() == {SECRET}:
        raise Unfit(f"What stands at {path} names a secret, and only the action itself may")
    return found


def followed(parts: list[str], value: Any, path: str) -> Any:
    """Return what stands at a path.

    Raises:
        Unfit: Nothing does.
    """
    for part in parts:
        found, value = _inner(value, part)
        if not found:
            raise Unfit(f"There is nothing at {path}: {part!r} is missing")
    return value


def at(value: Any, path: str) -> tuple[bool, Any]:
    """Return whether something stands at a path, and what; an empty path is all of it."""
    for part in path.split(".") if path else ():
        found, value = _inner(value, part)
        if not found:
            return False, None
    return True, value


def storable_text(text: str) -> str:
    """Return a text with a mark for each character that no database takes."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def unstorable(value: Any) -> str | None:
    """Return why Rota's API would not take a value of JSON; None if it would."""
    level, depth = [value], 0
    while level:
        if why := next((why for one in level if (why := _unfit(one))), None):
            return why
        below = [inner for one in level for inner in _inside(one)]
        if below and depth == DEEPEST:
            return f"it is nested more than {DEEPEST} deep"
        level, depth = below, depth + 1
    return None


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def _unfit(value: Any) -> str | None:
    texts = value if isinstance(value, Mapping) else [value] if isinstance(value, str) else []
    if any(_UNSTORABLE.search(one) for one in texts):
        return "a text in it holds a NUL character or half of a surrogate pair"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} in it is no number of JSON"
    if isinstance(value, int | float) and abs(value) >= 2**63:
        return "a number in it has more than 64 bits"
    return None


def as_json(value: Any) -> str:
    """Return a value as text."""
    return json.dumps(value, ensure_ascii=False)


def _inner(value: Any, part: str) -> tuple[bool, Any]:
    if isinstance(value, Mapping):
        return part in value, value.get(part)
    if isinstance(value, list) and part.isdecimal() and len(part) < 10:
        place = int(part)
        return place < len(value), value[place] if place < len(value) else None
    return False, None


def _each(value: Any, wrapper: str, replace: Callable[[Any], Any]) -> Any:
    """Return a value with all that a wrapper wraps replaced, in one order at every call."""
    if isinstance(value, Mapping):
        if value.keys() == {wrapper}:
            return replace(value[wrapper])
        return {key: _each(one, wrapper, replace) for key, one in value.items()}
    if isinstance(value, list):
        return [_each(one, wrapper, replace) for one in value]
    return value
