"""YAML as JSON's types, without the surprises.

Scalars are read as YAML 1.2's core schema has them: `no` and `12:30` are text, and so is a date.
JSON is read as JSON, since not all of it is YAML.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from yaml.events import CollectionEndEvent, CollectionStartEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # a PyYAML built without libyaml: slower, otherwise the same
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

LARGEST = 5 * 1024 * 1024
"""Bytes."""

MOST_NODES = 1_000_000
"""Values in a file with every alias written out."""

FEW_NODES = 20_000
"""So many in any file; beyond, no more than it has characters, which takes no aliases."""

DEEPEST = 100
"""Lists and objects in one another; libyaml would crash at some thousands."""

_TAG = "tag:yaml.org,2002:"
_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
)


class Unreadable(ValueError):
    """The text is no YAML that can be read; the message says where and why."""


class _Loader(Loader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def whole_number(self, node: ScalarNode) -> int:
        return int(self.construct_scalar(node))


class _Dumper(yaml.SafeDumper):
    """Quotes what any reader, of YAML 1.1 or 1.2, would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> ScalarNode:
    style = "|" if "\n" in text else None
    if not all(char.isprintable() or char == "\n" for char in text):
        style = '"'  # where the exotic line breaks are escaped, which every reader folds
    return dumper.represent_scalar(f"{_TAG}str", text, style=style)


for _name, _pattern, _first in _CORE:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_constructor(f"{_TAG}int", _Loader.whole_number)
_Dumper.add_representer(str, _text)


def read(data: bytes) -> list[Any]:
    """Return the documents of a YAML or JSON text.

    Raises:
        Unreadable: It cannot be read, is too large, or names a key twice.
    """
    if len(data) > LARGEST:
        raise Unreadable(f"it is larger than {LARGEST // 1024**2} MiB; split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"byte {error.start} is not UTF-8; save it as UTF-8") from None
    try:
        if text.lstrip()[:1] in ("{", "["):
            try:
                return [json.loads(text, object_pairs_hook=_unique)]
            except json.JSONDecodeError:
                pass  # YAML's own braces
            except Unreadable:
                raise
            except ValueError as error:  # a number of more digits than Python reads
                raise Unreadable(str(error).partition(";")[0]) from None
        return list(_documents(text))
    except RecursionError:
        raise Unreadable("it is nested too deep") from None


def write(documents: Iterable[Any]) -> str:
    """Return documents as YAML, which `read` takes back as they were."""
    return str(
        yaml.dump_all(
            documents,
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=100,
            explicit_start=True,
        )
    )


def is_json(value: Any) -> str | None:
    """Return why PostgreSQL would not take `value` as JSON; None if it would."""
    if isinstance(value, dict):
        strange = next((key for key in value if not isinstance(key, str)), None)
        if strange is not None:
            return f"the key {strange!r} is no text; put it in quotes"
        return next((why for one in (*value, *value.values()) if (why := is_json(one))), None)
    if isinstance(value, list):
        return next((why for one in value if (why := is_json(one))), None)
    if isinstance(value, str):
        return is_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number in JSON; leave it out"
    if isinstance(value, int | float) and abs(value) >= 2**63:
        return "a number in it has more than 64 bits; write it as text, in quotes"
    if value is None or isinstance(value, bool | int | float):
        return None
    return f"a {type(value).__name__} is no JSON; write it as text, in quotes"


def is_text(value: str) -> str | None:
    """Return why PostgreSQL would not take `value` as text; None if it would."""
    if "\0" in value:
        return "it holds a NUL character; leave that out"
    if any("\ud800" <= char <= "\udfff" for char in value):
        return "it holds half of a surrogate pair; leave that out"
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Unreadable(f"the key {key!r} stands twice in one object; keep one")
        found[key] = value
    return found


def _documents(text: str) -> Iterator[Any]:
    loader = _Loader(text)
    try:
        _check_depth(text)
        weight = 0
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            weight += _weigh(node, {})
            if weight > min(MOST_NODES, max(FEW_NODES, len(text))):
                raise Unreadable("its aliases stand for too many values; write them out")
            yield loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise Unreadable(_reason(error, text)) from None
    except yaml.YAMLError as error:
        raise Unreadable(
            " ".join(str(error).split()).replace(' in "<unicode string>"', "")
        ) from None
    except Unreadable:
        raise
    except ValueError as error:  # a number of more digits than Python reads
        raise Unreadable(str(error).partition(";")[0]) from None
    except (LookupError, AttributeError, OverflowError, TypeError):
        raise Unreadable(
            "a tag such as !!int stands before a value that it does not fit; take it away"
        ) from None
    finally:
        loader.dispose()


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise RecursionError
        elif isinstance(event, CollectionEndEvent):
            depth -= 1


def _weigh(node: Node, known: dict[int, int]) -> int:
    """Count the values under `node` with every alias written out; refuse keys that stand twice."""
    if id(node) in known:
        if not known[id(node)]:
            raise Unreadable(f"line {node.start_mark.line + 1}: an anchor holds itself")
        return known[id(node)]
    known[id(node)] = 0
    below: list[Node] = []
    if isinstance(node, SequenceNode):
        below = node.value
    elif isinstance(node, MappingNode):
        _check_keys(node)
        below = [one for pair in node.value for one in pair]
    known[id(node)] = 1 + sum(_weigh(one, known) for one in below)
    return known[id(node)]


def _check_keys(node: MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise Unreadable(f"line {key.start_mark.line + 1}: a key must be text")
        if key.value in seen:
            line = key.start_mark.line + 1
            raise Unreadable(f"line {line}: the key {key.value!r} stands twice; keep one")
        seen.add(key.value)


def _reason(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark or error.context_mark
    said = error.problem or "it cannot be read"
    if mark is None:
        return said
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    value = line.partition(":")[2].strip()
    if value[:1] in ("*", "@", "`", "%", "&", "!"):
        return f"line {mark.line + 1}: put {value!r} in quotes, for YAML reads {value[0]} as a sign"
    return f"line {mark.line + 1}, column {mark.column + 1}: {said}"
