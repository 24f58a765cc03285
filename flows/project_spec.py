"""What a project's own files say about it: `.project-spec.yaml`, and its README's beginning."""

import math
import re
from datetime import date
from typing import Any

import yaml

SPEC_PATH = ".project-spec.yaml"
MAX_SPEC_BYTES = 64 << 10
MAX_DEPTH = 32
README_CHARACTERS = 64 << 10
SUMMARY_CHARACTERS = 500

# libyaml's is some twenty times as fast; it is missing where PyYAML was built without it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")
_NO_PROSE = re.compile(r"\s*([#<>|\[!=:.`~]|---|\*\*\*|```|[-*+] |\d+\. )")
_UNDERLINE = re.compile(r"\s*(={2,}|-{2,}|~{2,})\s*")


class BadSpec(ValueError):
    """A `.project-spec.yaml` is not what it has to be; the message says why."""


def read_spec(content: bytes) -> dict[str, Any]:
    """Return what a `.project-spec.yaml` says, as JSON can hold it.

    Dates become text. Whoever can push may write the file, so nothing in it is trusted: its size
    and its depth have bounds, and it may not refer to parts of itself, which could unfold to any
    size.

    Raises:
        BadSpec: It is no mapping in YAML, or holds what JSON or the database cannot.

    """
    if len(content) > MAX_SPEC_BYTES:
        raise BadSpec(f"It has {len(content):,} bytes; at most {MAX_SPEC_BYTES:,} are read.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadSpec("It is not text in UTF-8.") from None
    try:
        _check_shape(text)
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise BadSpec(f"It is no YAML: {where}{error.problem or error.context}.") from None
    except yaml.YAMLError:
        raise BadSpec("It is no YAML: it holds characters that YAML does not know.") from None
    except BadSpec:
        raise
    # A tag lets PyYAML read any text as a number or a date, and it checks few of them.
    except (ValueError, OverflowError, TypeError, LookupError, AttributeError):
        raise BadSpec("It holds a number or a date that does not exist.") from None
    if not isinstance(document, dict):
        raise BadSpec("It is no mapping of names to values.")
    return {_key(key, ""): _plain(value, str(key)) for key, value in document.items()}


def _check_shape(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            where = f"Line {event.start_mark.line + 1}" if event.start_mark else "It"
            raise BadSpec(f"{where} refers to another part of the file (`*`): write it out.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise BadSpec(f"It is more than {MAX_DEPTH} levels deep.")


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {_key(key, where): _plain(one, f"{where}.{key}") for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, f"{where}[{number}]") for number, one in enumerate(value)]
    if isinstance(value, str):
        return _text(value, where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    raise BadSpec(f"`{where[:200]}` is of a kind that cannot be kept: write it as text in quotes.")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        at = f" in `{where[:200]}`" if where else ""
        raise BadSpec(f"The name `{str(key)[:100]}`{at} is no text: put it in quotes.")
    return _text(key, where)


def _text(value: str, where: str) -> str:
    # PostgreSQL keeps neither.
    if "\0" in value or re.search("[\ud800-\udfff]", value):
        raise BadSpec(f"`{where[:200]}` holds a character that cannot be kept.")
    return value


def first_paragraph(readme: bytes) -> str | None:
    """Return a README's first paragraph of prose, at most 500 characters, or None.

    Headings, pictures, badges, lists, tables, code and HTML are passed over.
    """
    text = readme.decode("utf-8-sig", errors="replace").replace("\0", "")[:README_CHARACTERS]
    fenced = False
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        lines = block.strip("\n").split("\n")
        fences = sum(line.lstrip().startswith(("```", "~~~")) for line in lines)
        if fenced or fences:
            fenced ^= fences % 2 == 1
            continue
        if len(lines) > 1 and _UNDERLINE.fullmatch(lines[1]):
            lines = lines[2:]  # a heading
        prose = [line for line in lines if line.strip()]
        if prose and not _NO_PROSE.match(prose[0]) and not prose[0].startswith(("    ", "\t")):
            return _shortened(" ".join(_LINK.sub(r"\1", " ".join(prose)).split()))
    return None


def _shortened(text: str) -> str:
    if len(text) <= SUMMARY_CHARACTERS:
        return text
    cut = text[: SUMMARY_CHARACTERS - 2].rsplit(" ", 1)[0]
    return f"{cut} …"
