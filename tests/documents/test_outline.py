"""What is read of a Markdown document, and what it may cost."""

import subprocess
import sys

import pytest

from flows.chunks import split
from flows.outline import Markdown
from flows.summary import summarize

MIB = 1 << 20
PROSE = "Rota runs periodic duties for tenants.\n"

# Everything that is done with a document; prints its CPU seconds, and how many MB it took.
COST = """
import resource, sys
from flows.chunks import split
from flows.outline import Markdown
from flows.summary import summarize

text = sys.stdin.read()
before = resource.getrusage(resource.RUSAGE_SELF)
document = Markdown(text)
chunks = split(document)
document.title, summarize(document)
after = resource.getrusage(resource.RUSAGE_SELF)
assert "".join(chunk.new for chunk in chunks) == text
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(cpu, (after.ru_maxrss - before.ru_maxrss) / 1024)
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        ">" * 19 + "a\n" + "a\n" * (MIB // 2 - 11),
        "-\n+\n" * (MIB // 4),
        "#\n" * (MIB // 2),
        "#\na\n" * (MIB // 4),
        (">" * 19 + "a\n\n") * (MIB // 22),
        "|a" * 200 + "|\n" + "|-" * 200 + "|\n" + ("|a" * 200 + "|\n") * (MIB // 402 - 2),
        ("# " + "![" * 250 + "\n" + "![" * 499 + "\n\n") * (MIB // 1503),
    ],
    ids=lambda text: repr(text[:4]),
)
def test_no_document_takes_long_or_much_memory(text):
    done = subprocess.run(
        [sys.executable, "-c", COST], input=text, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    cpu, megabytes = map(float, done.stdout.split())
    # Half as much is what it takes; the machine may be slow.
    assert cpu < 8
    assert megabytes < 200


@pytest.mark.timeout(10)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
def test_front_matter_that_never_ends_is_none(end):
    document = Markdown(f"---{end}" + f"a{end}" * 300)

    assert "".join(chunk.new for chunk in split(document)) == document.text
    assert document.title is None
    assert len(summarize(document) or "") <= 800


@pytest.mark.parametrize(
    ("before", "title"),
    [
        ("---\ntitle: x\n---\n", "Shop"),
        ("--- \r\ntitle: x\r\n...\t\r\n", "Shop"),
        ("---\n---\n", "Shop"),
        ("---\n" + "a: b\n" * 200 + "---\n", "Shop"),
        ("---\n" + "a: b\n" * 201 + "---\n", "a: b " * 32),
        (" ---\ntitle: x\n---\n", "title: x"),
        ("----\ntitle: x\n---\n", "title: x"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_front_matter_is_no_heading(before, title):
    document = Markdown(before + "# Shop\n\n" + PROSE)

    assert document.title == title
    assert summarize(document) == PROSE.strip()


def test_the_title_is_the_first_heading():
    assert Markdown("text\n\n## The *title*\n").title == "The title"
    assert Markdown("#\n\n# Later\n").title == "Later"
    assert Markdown("no heading\n").title is None


@pytest.mark.timeout(20)
def test_a_heading_that_nests_very_deep_is_read_in_part():
    assert len(Markdown("# " + "![" * 200_000).title or "") == 160


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        ">" * 1_000_000,
        "- " * 500_000,
        "`" * 1_000_000,
        "# a\n" * 250_000,
        "a\n" * 500_000,
        "\n" * 1_000_000,
        "---\n" * 250_000,
        "|a|\n|-|\n" * 125_000,
        "<a " * 330_000,
    ],
    ids=lambda text: repr(text[:8]),
)
def test_a_document_made_to_be_slow_is_not(text):
    assert "".join(chunk.new for chunk in split(Markdown(text))) == text
