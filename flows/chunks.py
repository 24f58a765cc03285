"""Splits a document into the passages that search finds.

A document is divided at its headings, and a section that is too long for one passage into several,
which overlap. Sizes are in tokens: about what a language model reads as one unit. Each model counts
differently, and to count as one does means to have its vocabulary, so here a token is what `TOKEN`
matches: up to six Latin letters, three digits, two letters of another alphabet, or any other
character, each with the space before it; or a run of at most 16 line ends or other white space. For
English that is a little more than a model counts, so what fits here fits there.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise

from flows.outline import Heading, Markdown, lines_of

CHUNK_TOKENS = 512
OVERLAP_TOKENS = 50

TOKEN = re.compile(
    r"[ ]?(?:[A-Za-zÀ-ɏ]{1,6}|[0-9]{1,3}|[Ͱ-῿]{1,2}|\S)|[\r\n]{1,16}|[^\S\r\n]{1,16}"
)
"""One token. Every character of a text belongs to exactly one."""


@dataclass(frozen=True)
class Chunk:
    """A passage of a document.

    Attributes:
        heading: The headings that it stands under, outermost first: `Install > Docker`.
        start_line: The line that it begins in; the document's first is 1.
        end_line: The line that it ends in.
        text: The passage as it stands there.
        repeated: How many characters at its beginning also end the passage before.

    """

    heading: str
    start_line: int
    end_line: int
    text: str
    repeated: int = 0

    @property
    def new(self) -> str:
        """The text without what is repeated; of all passages, this gives the document."""
        return self.text[self.repeated :]


def split(
    document: str | Markdown,
    *,
    size: int = CHUNK_TOKENS,
    overlap: int = OVERLAP_TOKENS,
) -> list[Chunk]:
    """Split a document along its headings into passages of a limited size.

    A passage never goes on beyond a heading, but one without text of its own, which leads the next
    section. Within a section, a passage ends after a paragraph if that is in the second half of
    the room it has, else after a line, a word, or wherever the room ends. What is too far down to
    be parsed is one section, without a heading.

    Args:
        document: A document; what is no `Markdown` has no headings.
        size: The most tokens of a passage.
        overlap: How many tokens a passage has of the one before it in its section; less than half
            of `size`.

    """
    text = document if isinstance(document, str) else document.text
    lines = lines_of(text)
    offsets = [0, *accumulate(map(len, lines))]
    sections = [("", 0)] if isinstance(document, str) else _sections(lines, document)
    chunks: list[Chunk] = []
    for (heading, first), (_, end) in pairwise([*sections, ("", len(lines))]):
        begin, stop = offsets[first], offsets[end]
        for shared, start, cut in _cuts(text, begin, stop, size, overlap):
            chunks.append(
                Chunk(
                    heading,
                    bisect_right(offsets, shared),
                    bisect_right(offsets, cut - 1),
                    text[shared:cut],
                    start - shared,
                )
            )
    return chunks


def count(text: str) -> int:
    """Return how many tokens a text has."""
    return sum(1 for _ in TOKEN.finditer(text))


def _sections(lines: list[str], document: Markdown) -> list[tuple[str, int]]:
    """Return the path of headings and the first line of each section, which begins at 0."""
    sections = [("", 0)]
    path: list[Heading] = []
    body = 0
    for heading in document.headings:
        while path and path[-1].level >= heading.level:
            path.pop()
        path.append(heading)
        begins = heading.line
        if not "".join(lines[body:begins]).strip():
            _, begins = sections.pop()
        sections.append((" > ".join(one.title for one in path if one.title), begins))
        body = heading.end
    if document.parsed_lines < len(lines):
        sections.append(("", document.parsed_lines))
    return sections


def _cuts(text: str, begin: int, stop: int, size: int, overlap: int) -> list[tuple[int, int, int]]:
    """Return where each passage of a section begins, where its new part does, and where it ends."""
    starts = [match.start() for match in TOKEN.finditer(text, begin, stop)]
    ends = [*starts[1:], stop]
    found = []
    shared = first = 0
    while first < len(starts):
        last = shared + size
        if last < len(starts):
            half = first + (last - first) // 2
            last = max(range(half + 1, last + 1), key=lambda at: (_break(text, starts, at), at))
        else:
            last = len(starts)
        found.append((starts[shared], starts[first], ends[last - 1]))
        shared, first = max(last - overlap, 0), last
    return found


def _break(text: str, starts: list[int], at: int) -> int:
    """Return how well a text may be cut before a token: 3 after a paragraph, 0 inside of a word."""
    before = text[starts[at - 1] : starts[at]]
    if before[-1] in "\r\n":
        return 3 if len(before.replace("\r\n", "\n")) > 1 else 2
    return int(before.isspace() or text[starts[at]].isspace())
