"""What is wrong with a document, a line for each thing: field, value, remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

MOST = 50
"""So many faults are told of one document; finding the names that were meant takes time."""


def lines(
    error: ValidationError, model: type[BaseModel], surplus: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Yield what keeps a document from being one of `model`, whose fields say what they take.

    Args:
        error: What pydantic found.
        model: What the document was to be; the description of a field completes "give ...".
        surplus: What to say of keys that the model has not, if there is more to say.
    """
    surplus = surplus or {}
    found = error.errors(include_url=False)
    for number, one in enumerate(found):
        if number == MOST:
            yield f"and {len(found) - MOST} more"
            return
        where = one["loc"]
        path = ".".join(str(part) for part in where)
        said = str(one.get("ctx", {}).get("error", ""))
        if not where:
            yield said
        elif one["type"] == "extra_forbidden":
            known = _models(model, where)[-1].model_fields
            yield f"{path}: {surplus.get(path) or f'there is no such key{meant(where[-1], known)}'}"
        elif one["type"] == "invalid_key":
            yield f"{path}: the key {where[-1]!r} is no text; there is no such key, remove it"
        elif one["type"] == "missing":
            yield f"{path}: it is missing; give {_takes(model, where)}"
        elif ";" in said:
            yield f"{path}: it {said}"
        else:
            wrong = f"{short(one['input'])} {said or 'does not fit'}"
            yield f"{path}: {wrong}; give {_takes(model, where)}"


def meant(key: object, known: Iterable[str]) -> str:
    """Return the key that was probably meant, or all that there are, to end a sentence with."""
    close = difflib.get_close_matches(str(key), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def short(value: object) -> str:
    """Return a value as an error shows it."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} that is nested too deep"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _takes(model: type[BaseModel], where: Sequence[int | str]) -> str:
    """Return the description of the field nearest to a place in a document."""
    found = [
        one.model_fields[part]
        for one, part in zip(_models(model, where), _names(where), strict=False)
        if part in one.model_fields
    ]
    return found[-1].description or ""


def _models(model: type[BaseModel], where: Sequence[int | str]) -> list[type[BaseModel]]:
    """Return the models on the way to a place in a document, the outermost first."""
    found = [model]
    for part in _names(where):
        inner = _model_in(found[-1].model_fields.get(part))
        if inner is None:
            break
        found.append(inner)
    return found


def _names(where: Sequence[int | str]) -> list[str]:
    return [part for part in where if isinstance(part, str)]


def _model_in(of: FieldInfo | Any | None) -> type[BaseModel] | None:
    annotation = of.annotation if isinstance(of, FieldInfo) else of
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _model_in(one))), None)
