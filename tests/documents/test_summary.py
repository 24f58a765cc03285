import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.outline import Markdown
from flows.summary import summarize

README = """\
---
title: Shop
---
[![build](https://ci/badge.svg)](https://ci) [![docs](x.svg)](y)

# Shop

Shop sells **things** over [HTTP](https://example.com) to everybody.

It keeps orders in PostgreSQL. Orders are paid by card, and every order is written to PostgreSQL
before the card is charged.

- a list is left out of it

```python
print("so is code, which says nothing. Nothing at all.")
```

| table | of things |
|---|---|
| is | left out too |

The weather was nice yesterday in Lisbon.
"""


def test_a_summary_is_made_of_the_documents_own_sentences():
    summary = summarize(Markdown(README))

    assert summary is not None
    assert summary.startswith("Shop sells things over HTTP to everybody.")
    assert "Orders are paid by card" in summary
    assert not any(word in summary for word in ("build", "title", "list", "code", "table", "http:"))


def test_of_a_long_document_the_sentences_that_speak_for_it_are_kept():
    about = "The scheduler starts {} duties of a tenant when they are due. "
    other = "Bananas, apples, pears, plums, cherries and grapes are kinds of fruit. "
    text = "Rota runs periodic duties for tenants. " + other
    text += "\n\n".join(about.format(number) for number in ("daily", "weekly", "yearly")) + "\n\n"

    summary = summarize(Markdown(text), most_characters=130)

    assert summary is not None
    assert "Rota runs" in summary
    assert "duties of a tenant" in summary
    assert "Bananas" not in summary


def test_what_was_said_is_not_said_again():
    text = "Rota runs periodic duties for tenants.\n\n" * 10

    assert summarize(Markdown(text)) == "Rota runs periodic duties for tenants."


def test_a_sentence_that_is_too_long_is_cut_at_a_word():
    summary = summarize(Markdown("word " * 500))

    assert summary is not None
    assert summary.endswith(" word…")
    assert len(summary) <= 800


@pytest.mark.parametrize("text", ["", "# Title\n", "- only\n- a list\n", "![image](x)", "Hm."])
def test_a_document_without_sentences_has_no_summary(text):
    assert summarize(Markdown(text)) is None


def test_of_a_very_long_paragraph_whole_sentences_of_its_beginning_are_read():
    text = "Rota runs periodic duties for tenants. " * 50
    text += "And this is so long that it goes on beyond what is read of one paragraph."

    assert summarize(Markdown(text)) == "Rota runs periodic duties for tenants."


def test_a_link_that_is_defined_elsewhere_is_read_as_its_text():
    text = "Sells [things of all kinds][1] to everybody.\n\n[1]: https://example.com\n"

    assert summarize(Markdown(text)) == "Sells things of all kinds to everybody."


@pytest.mark.timeout(20)
def test_a_paragraph_that_nests_very_deep_is_read_in_part():
    assert len(summarize(Markdown("![" * 200_000)) or "") <= 800


def test_sentences_of_other_scripts_are_sentences():
    text = "東京は日本の首都であり世界最大の都市圏の一つです。人口は約千四百万人です。"

    assert summarize(Markdown(text)) is not None


@settings(deadline=None)
@given(st.text(max_size=2000), st.integers(50, 800))
def test_a_summary_is_short_and_always_the_same(text, most):
    summary = summarize(Markdown(text), most)

    assert summary is None or 0 < len(summary) <= most
    assert summary == summarize(Markdown(text), most)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    ["Some words of one sentence. " * 37_000, "[a](" * 250_000, "*a " * 330_000, "word " * 200_000],
    ids=lambda text: repr(text[:8]),
)
def test_a_document_made_to_be_slow_is_not(text):
    assert len(summarize(Markdown(text)) or "") <= 800
