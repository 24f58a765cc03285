import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.chunks import TOKEN, Chunk, count, split
from flows.outline import PARSED_CHARACTERS, PARSED_LINES, Markdown

GUIDE = """\
# Shop

Sells things.

## Install

From the package.

### Docker

```sh
# not a heading
docker run shop
```

## Use

Start it.
"""


def where(chunks: list[Chunk]) -> list[tuple[str, int, int]]:
    return [(chunk.heading, chunk.start_line, chunk.end_line) for chunk in chunks]


def test_a_document_is_divided_at_its_headings():
    chunks = split(Markdown(GUIDE))

    assert where(chunks) == [
        ("Shop", 1, 4),
        ("Shop > Install", 5, 8),
        ("Shop > Install > Docker", 9, 15),
        ("Shop > Use", 16, 18),
    ]
    assert chunks[1].text == "## Install\n\nFrom the package.\n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("plain\n", [("", 1, 1)]),
        ("before\n\n# A\n\nin a\n", [("", 1, 2), ("A", 3, 5)]),
        ("\n\n# A\n\nin a\n", [("A", 1, 5)]),
        ("Title\n=====\n\nPart\n----\nx\n", [("Title > Part", 1, 6)]),
        ("# A\n## B\n### C\nx\n## D\ny\n", [("A > B > C", 1, 4), ("A > D", 5, 6)]),
        ("# A\nx\n# B\n", [("A", 1, 2), ("B", 3, 3)]),
        ("### Deep\nx\n# Top\ny\n", [("Deep", 1, 2), ("Top", 3, 4)]),
        ("#\nx\n## B\ny\n", [("", 1, 2), ("B", 3, 4)]),
        ("~~~\n# code\n~~~\n", [("", 1, 3)]),
        ("    # code\n", [("", 1, 1)]),
        ("<!--\n# comment\n-->\n", [("", 1, 3)]),
        ("> # quoted\n\n- # listed\n", [("", 1, 3)]),
        ("#hashtag\n", [("", 1, 1)]),
        ("---\ntitle: x\n---\n# A\nx\n", [("", 1, 3), ("A", 4, 5)]),
        ("a\r\n\r\n# B\r\nc\r\n", [("", 1, 2), ("B", 3, 4)]),
        ("a\r\r# B\rc", [("", 1, 2), ("B", 3, 4)]),
        ("# `rota up` *now* [here](x) ![no](y)\nx\n", [("rota up now here", 1, 2)]),
        ("a\x0cb\u2028c\n# B\nx\n", [("", 1, 1), ("B", 2, 3)]),
    ],
    ids=repr,
)
def test_headings_are_what_markdown_says_they_are(text, expected):
    assert where(split(Markdown(text))) == expected


def test_without_markdown_nothing_is_a_heading():
    assert where(split("# a comment\nname: shop\n")) == [("", 1, 2)]


def test_a_long_section_is_cut_after_paragraphs_and_overlaps():
    paragraphs = [f"Paragraph {number} says a few words.\n\n" for number in range(30)]
    text = "# A\n\n" + "".join(paragraphs)

    chunks = split(Markdown(text), size=60, overlap=10)

    assert len(chunks) > 3
    assert all(chunk.new.endswith("words.\n\n") for chunk in chunks)
    assert all(chunk.heading == "A" for chunk in chunks)
    assert chunks[0].repeated == 0
    for before, after in itertools.pairwise(chunks):
        shared = after.text[: after.repeated]
        assert before.text.endswith(shared)
        assert count(shared) == 10


def test_passages_of_two_sections_do_not_overlap():
    text = "# A\n" + "word " * 100 + "\n# B\n" + "word " * 100

    chunks = split(Markdown(text), size=60, overlap=10)

    [first_of_b] = [chunk for chunk in chunks if chunk.text.startswith("# B")]
    assert first_of_b.repeated == 0


def test_a_line_without_end_is_cut_hard():
    chunks = split("x" * 100_000)

    assert all(count(chunk.text) <= 512 for chunk in chunks)
    assert "".join(chunk.new for chunk in chunks) == "x" * 100_000
    assert {(chunk.start_line, chunk.end_line) for chunk in chunks} == {(1, 1)}


def test_lines_are_told_of_a_passage_within_a_section():
    text = "\n".join(f"line {number}" for number in range(1, 201))

    for chunk in split(text, size=40, overlap=8):
        lines = text.split("\n")[chunk.start_line - 1 : chunk.end_line]
        assert chunk.text.strip() in "\n".join(lines)
        assert lines[0].endswith(chunk.text.split("\n")[0])


MARKDOWN_PARTS = st.one_of(
    st.sampled_from(["# A", "## B", "###### F", "```", "~~~", "---", "===", "> ", "- ", "    "]),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\t", "\x0c", "\u2028", "é", "日本語", "x" * 40]),
    st.sampled_from(["word ", "|", "<!--", "-->", "1."]),
)
DOCUMENTS = st.one_of(st.text(), st.lists(MARKDOWN_PARTS, max_size=120).map("".join))


@settings(deadline=None, max_examples=300)
@given(DOCUMENTS, st.booleans(), st.integers(2, 60))
def test_nothing_is_lost_and_nothing_is_too_long(text, markdown, size):
    overlap = (size - 1) // 2
    document = Markdown(text) if markdown else text
    chunks = split(document, size=size, overlap=overlap)

    assert "".join(chunk.new for chunk in chunks) == text
    assert all(count(chunk.text) <= size for chunk in chunks)
    assert all(chunk.new for chunk in chunks)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").count("\n") + 1
    assert all(1 <= chunk.start_line <= chunk.end_line <= lines for chunk in chunks)
    assert split(document, size=size, overlap=overlap) == chunks


@given(st.text())
def test_every_character_belongs_to_one_token(text):
    assert "".join(match[0] for match in TOKEN.finditer(text)) == text


def test_tokens_are_counted_as_described():
    assert count("Install it") == 3
    assert count("12345") == 2
    assert count("привет") == 3
    assert count("日本語") == 3
    assert count("a\n\nb") == 3
    assert count("") == 0


def test_headings_beyond_what_is_parsed_divide_nothing():
    text = "# Top\n\nbefore\n\n" + "word " * (PARSED_CHARACTERS // 5) + "\n\n# Far\n\nafter\n"

    chunks = split(Markdown(text))

    assert "".join(chunk.new for chunk in chunks) == text
    assert (chunks[0].heading, chunks[-1].heading) == ("Top", "")
    assert (chunks[-1].start_line, chunks[-1].text) == (6, "\n# Far\n\nafter\n")


def test_lines_beyond_what_is_parsed_divide_nothing():
    text = "# Top\n" + "a\n" * (PARSED_LINES - 1) + "# Far\n\nafter\n"

    chunks = split(Markdown(text))

    assert "".join(chunk.new for chunk in chunks) == text
    assert where(chunks)[-1] == ("", PARSED_LINES + 1, PARSED_LINES + 3)
    assert {chunk.heading for chunk in chunks[:-1]} == {"Top"}
