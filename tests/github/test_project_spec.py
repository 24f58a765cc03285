import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.projects import Change
from flows.project_spec import MAX_SPEC_BYTES, BadSpec, first_paragraph, read_spec


def test_a_spec_is_read_as_json_can_hold_it():
    spec = b"""\
name: shop
owners: [ann, bob]
since: 2024-02-29
at: 2024-02-29T10:00:00Z
limits: {cpu: 0.5, replicas: 2, public: no}
note:
"""

    assert read_spec(spec) == {
        "name": "shop",
        "owners": ["ann", "bob"],
        "since": "2024-02-29",
        "at": "2024-02-29T10:00:00+00:00",
        "limits": {"cpu": 0.5, "replicas": 2, "public": False},
        "note": None,
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no mapping"),
        (b"- a\n- b\n", "no mapping"),
        (b"a: [1, 2\nb: 3", r"no YAML: line 2: "),
        (b"a: 1\n---\nb: 2\n", "no YAML: line 2"),
        (b"a: !!python/object/apply:os.system [id]", "no YAML: line 1: .*python"),
        (b"a: \xff", "not text in UTF-8"),
        (b"a: \x01", "no YAML"),
        (b"a: &x [1]\nb: *x\n", "Line 2 refers to another part"),
        (b"a: " + b"[" * 40 + b"]" * 40, "more than 32 levels"),
        (b"[" * 60_000, "more than 32 levels"),
        (b"a: " + b"x" * MAX_SPEC_BYTES, "65,539 bytes; at most 65,536"),
        (b"a: 2024-13-45", "number or a date"),
        (b"a: !!bool foo", "number or a date"),
        (b"a: !!int ''", "number or a date"),
        (b"a: !!float ''", "number or a date"),
        (b"a: !!timestamp foo", "number or a date"),
        (b"a: !!float " + b":".join([b"1"] * 400), "number or a date"),
        (b"a: " + b"9" * 5000, "number or a date|of a kind"),
        (b"a: {b: [0, 99999999999999999999]}", r"`a.b\[1\]` is of a kind"),
        (b"a: .nan", "`a` is of a kind"),
        (b"a: !!binary aGk=", "`a` is of a kind"),
        (b"a: {1: b}", "name `1` in `a` is no text"),
        (b"? [1, 2]\n: b", "no YAML|no text"),
        (b'a: "\\0"', "`a` holds a character"),
        (b'a: "\\uD800"', "`a` holds a character|no YAML"),
    ],
)
def test_a_bad_spec_is_told_with_what_is_wrong(content, said):
    with pytest.raises(BadSpec, match=said):
        read_spec(content)


TAGS = [f"!!{tag} " for tag in "bool int float timestamp binary null set omap map seq str".split()]
PARTS = st.sampled_from([*TAGS, "a: ", "- ", "''", "foo", "1:1", "2024-01-01"])


@given(
    st.binary(max_size=200)
    | st.text("[]{}:,-*&!?|>'\"\n a1.\\%@`", max_size=200).map(str.encode)
    | st.lists(PARTS | st.text("[]{}:, \n", max_size=2), max_size=12).map("".join).map(str.encode)
)
@settings(max_examples=300, deadline=None)
def test_whatever_the_file_holds_it_is_read_or_refused(content):
    try:
        spec = read_spec(content)
    except BadSpec:
        return
    json.dumps(spec, allow_nan=False)
    Change(spec=spec)  # the API takes it


@pytest.mark.parametrize(
    ("readme", "paragraph"),
    [
        ("# Shop\n\nSells *things*,\nonline.\n\nMore.", "Sells *things*, online."),
        ("Shop\n====\n\nSells things.", "Sells things."),
        ("Shop\n====\nSells things.", "Sells things."),
        (
            "[![ci](https://ci.example/x.svg)](https://ci.example)\n\n"
            "See [the docs](https://docs.example/a).",
            "See the docs.",
        ),
        (
            "<p align=center>\n<img>\n</p>\n\n```\nmake\n\nrun\n```\n\n- one\n\n> two\n\nAt last.",
            "At last.",
        ),
        (".. image:: x.png\n\nSells things.", "Sells things."),
        ("\ufeff# Shop\r\n\r\nSells\r\nthings.\r\n", "Sells things."),
        ("", None),
        ("# Shop\n", None),
        ("```\nnever closed\n\nprose", None),
        ("A\0B", "AB"),
    ],
)
def test_the_first_paragraph_of_prose_is_taken(readme, paragraph):
    assert first_paragraph(readme.encode()) == paragraph


def test_a_long_paragraph_is_cut_at_a_word():
    cut = first_paragraph(b"word " * 1000)

    assert cut is not None
    assert len(cut) <= 500
    assert cut.endswith("word …")


@pytest.mark.wall_clock
@pytest.mark.parametrize("hostile", ["[", "![", "[](", "<!--", "\n \n", "```\n", "a\n=="])
def test_a_hostile_readme_takes_no_time(hostile):
    began = time.monotonic()

    first_paragraph((hostile * (1 << 20))[: 1 << 20].encode())

    assert time.monotonic() - began < 2
