"""Which files of a project are its documents, and what their text is."""

import json
import re
from collections.abc import Sequence

from blocks.github_answers import TreeFile

MOST_DOCUMENTS = 500
MOST_BYTES = 1 << 20
MOST_PATH_BYTES = 300

# What is not ASCII takes up to three times its bytes in JSON, and control characters six times.
MOST_JSON_BYTES = 3 * MOST_BYTES

README = re.compile(r"readme(\.(md|markdown|rst|txt))?", re.IGNORECASE)
SPEC = ".project-spec.yaml"
DOCS = re.compile(r"docs/.*\.md", re.IGNORECASE | re.DOTALL)


def chosen(listed: Sequence[TreeFile]) -> tuple[list[TreeFile], dict[str, str]]:
    """Return the documents among the files, the README first, and why others are left out."""
    found = {file.path: file for file in listed if _rank(file.path) is not None}
    ranked = [found[path] for path in sorted(found, key=lambda path: (_rank(path), path))]
    left_out = {file.path: why for file in ranked if (why := _unfit(file))}
    fitting = [file for file in ranked if file.path not in left_out]
    left_out |= {file.path: "it is beyond 500" for file in fitting[MOST_DOCUMENTS:]}
    return fitting[:MOST_DOCUMENTS], left_out


def text_of(content: bytes | None) -> str | None:
    """Return a file's text, or None if it has none that can be kept."""
    if content is None or len(content) > MOST_BYTES or b"\0" in content:
        return None
    text = content.decode("utf-8-sig", errors="replace")
    return text if len(json.dumps(text)) <= MOST_JSON_BYTES else None


def _rank(path: str) -> int | None:
    if README.fullmatch(path):
        return 0
    if path == SPEC:
        return 1
    return 2 if DOCS.fullmatch(path) else None


def _unfit(file: TreeFile) -> str | None:
    if file.size > MOST_BYTES:
        return f"{file.size:,} bytes are over 1 MiB"
    if not file.path.isprintable() or len(file.path.encode()) > MOST_PATH_BYTES:
        return "its path is over 300 bytes, or cannot be shown"
    if {"", ".", ".."} & {part.strip() for part in re.split(r"[/\\]", file.path)}:
        return "its path cannot be asked for"
    return None
