"""What a Markdown document says at its outermost level: its headings and its paragraphs.

Only the beginning of a document is parsed, up to `PARSED_CHARACTERS` and `PARSED_LINES`. A document
that was made to be slow takes a parser minutes and a gigabyte, and one that people read fits.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

PARSED_CHARACTERS = 1 << 18
PARSED_LINES = 20_000

FRONT_MATTER_LINES = 200

TITLE_CHARACTERS = 160
INLINE_CHARACTERS = 1000
"""So much of a heading or paragraph is read; what is nested in it can take very long."""

_INLINE = MarkdownIt("commonmark").enable("table")
_BLOCKS = MarkdownIt("commonmark").enable("table").disable(["inline", "text_join"])


@dataclass(frozen=True)
class Heading:
    """A heading, where it stands, and what a reader sees of it.

    Attributes:
        line: The line that it begins in; the document's first is 0.
        end: The line after it.
        level: 1 to 6.
        title: Its text.

    """

    line: int
    end: int
    level: int
    title: str


@dataclass(frozen=True)
class _Outline:
    lines: int
    headings: Sequence[Heading]
    paragraphs: Sequence[str]
    links: dict[str, Any]


@dataclass(frozen=True)
class Markdown:
    """A Markdown document, which is parsed once, when something is first asked about it.

    Attributes:
        text: The document.

    """

    text: str

    @property
    def headings(self) -> Sequence[Heading]:
        """The headings; one inside of a list or a quotation divides nothing, and is none."""
        return self._outline.headings

    @property
    def parsed_lines(self) -> int:
        """How many lines, from the first on, the headings were looked for in."""
        return self._outline.lines

    @property
    def title(self) -> str | None:
        """The first heading that has a text, if there is one."""
        return next((heading.title for heading in self.headings if heading.title), None)

    def paragraphs(self) -> Iterator[tuple[str, bool]]:
        """Yield each paragraph as a reader sees it, and whether that is all of it."""
        for source in self._outline.paragraphs:
            [inline] = _INLINE.parseInline(source[:INLINE_CHARACTERS], self._outline.links)
            yield _plain(inline), len(source) <= INLINE_CHARACTERS

    @cached_property
    def _outline(self) -> _Outline:
        lines = lines_of(self.text)[:PARSED_LINES]
        skipped = _front_matter(lines)
        source = "".join(lines[skipped:])[:PARSED_CHARACTERS]
        links: dict[str, Any] = {}
        headings, paragraphs = [], []
        for opening, inline in pairwise(_BLOCKS.parse(source, links)):
            if opening.level or not opening.map:
                continue
            if opening.type == "heading_open":
                first, end = (line + skipped for line in opening.map)
                headings.append(Heading(first, end, int(opening.tag[1:]), _title(inline.content)))
            elif opening.type == "paragraph_open":
                # One character more tells that it goes on.
                paragraphs.append(inline.content[: INLINE_CHARACTERS + 1])
        return _Outline(skipped + len(lines_of(source)), headings, paragraphs, links)


def lines_of(text: str) -> list[str]:
    """Return the lines of a document with their ends, which are what Markdown takes for ends."""
    return list(io.StringIO(text, newline=""))


def _front_matter(lines: Sequence[str]) -> int:
    """Return how many lines stand before the Markdown that some tools read, and readers do not."""
    if lines and lines[0].rstrip() == "---":
        for number, line in enumerate(lines[1 : FRONT_MATTER_LINES + 2], 2):
            if line.rstrip() in ("---", "..."):
                return number
    return 0


def _title(source: str) -> str:
    [inline] = _INLINE.parseInline(source[:INLINE_CHARACTERS])
    return _plain(inline)[:TITLE_CHARACTERS]


def _plain(inline: Token) -> str:
    """Return what a reader sees of a line or paragraph of Markdown, but for images and HTML."""
    seen = {"text", "code_inline"}
    parts = [
        child.content if child.type in seen else " " if child.type.endswith("break") else ""
        for child in inline.children or []
    ]
    return " ".join("".join(parts).split())
