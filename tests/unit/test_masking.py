"""Secrets are found in what repeats them, however that is written."""

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest

from blocks.masking import MASK, Masking

SECRET = 'k"e/y\\ ö&1'


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


WRITTEN = {
    "as it is": SECRET,
    "in JSON": json.dumps(SECRET)[1:-1],
    "in JSON with its slashes escaped": json.dumps(SECRET)[1:-1].replace("/", "\\/"),
    "in JSON, all of it escaped": escaped(SECRET),
    "in JSON in JSON": json.dumps(json.dumps(SECRET))[1:-1],
    "in a path": quote(SECRET, safe=""),
    "in a query": quote_plus(SECRET),
    "in a query in a query": quote(quote(SECRET, safe=""), safe=""),
    "in a query in JSON": json.dumps("/?k=" + quote(SECRET)).replace("/", "\\/"),
    "in HTML": html.escape(SECRET),
    "in HTML by numbers": "".join(f"&#{ord(char)};" for char in SECRET),
    "in Python": repr(SECRET.encode())[2:-1],
    "as Latin-1 of UTF-8": SECRET.encode().decode("latin-1"),
    "in lower case": SECRET.lower(),
    "in base64": base64.b64encode(SECRET.encode()).decode(),
    "in base64 behind a name": base64.b64encode(f"me:{SECRET}".encode()).decode(),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_secret_is_hidden_however_it_is_written(how):
    text = f"You sent {WRITTEN[how]}, and no more."

    shown = Masking([SECRET]).text(text)

    assert shown.startswith("You sent "), shown
    assert shown.endswith(", and no more."), shown
    assert MASK in shown
    assert "e/y" not in shown
    assert WRITTEN[how] not in shown


@pytest.mark.parametrize(
    ("header", "repeated"),
    [
        ("Bearer t0ken-1234", "t0ken-1234"),
        ("Basic " + base64.b64encode('me:p"ö/4'.encode()).decode(), 'p"ö/4'),
        ("Basic " + base64.b64encode(b"me:p4ss").decode(), "me:p4ss"),
        ("session=abcdef; theme=dark-1", "abcdef"),
    ],
)
def test_what_is_secret_in_a_header_is_hidden_by_itself_too(header, repeated):
    assert Masking([header]).text(f"<{repeated}>") == f"<{MASK}>"


def test_keys_and_texts_of_json_are_hidden_however_deep():
    value = {SECRET: [1, None, {"a": quote(SECRET)}]}

    assert Masking([SECRET]).json(value) == {MASK: [1, None, {"a": MASK}]}


def test_what_holds_no_secret_stays_as_it_is():
    text = 'a%20b + \\u0041 &amp; "\\/" 100%'

    assert Masking([SECRET]).text(text) == text
    assert Masking([]).text(text) == text
    assert Masking([""]).text(text) == text


def test_a_text_made_of_escapes_is_looked_through_in_time():
    text = "\\" * 500_000 + "%25" * 100_000 + "&amp;" * 50_000

    assert Masking([SECRET, "\\\\\\\\a"]).text(text) == text


def test_of_a_text_with_secrets_in_ever_more_forms_nothing_is_shown():
    text = ""
    for _ in range(12):
        text = quote(text + SECRET, safe="")

    assert Masking([SECRET]).text(text) == MASK
    assert Masking(["*", "**"]).text("*%2a") == "*%2a"


@pytest.mark.parametrize(
    ("secret", "value", "shown"),
    [
        ("12345678", {"echo": 12345678}, {"echo": MASK}),
        ("1234.5", [1234.5, 1234, True, None], [MASK, 1234, True, None]),
    ],
)
def test_a_secret_that_is_a_number_is_hidden_in_json(secret, value, shown):
    assert Masking([secret]).json(value) == shown


def test_no_number_of_a_character_is_too_long_to_be_read():
    text = "&#" + "1" * 5000 + "; &#x" + "f" * 5000 + "; &#0000115;" + SECRET

    assert SECRET not in Masking([SECRET]).text(text)
    assert Masking(["s3cr3t"]).text("&#" + "1" * 5000) == "&#" + "1" * 5000


def test_lines_stay_lines_where_a_text_is_shown_without_its_escapes():
    assert Masking(["a/b/c"]).text("one\\ntwo a\\/b\\/c") == f"one\ntwo {MASK}"


def test_what_is_short_or_a_part_is_hidden_only_as_a_word():
    masking = Masking(["ab", "sid=abcd1234; v=data"])

    assert masking.text("table ab (ab) metadata data abcd12345 abcd1234") == (
        f"table {MASK} ({MASK}) metadata {MASK} abcd12345 {MASK}"
    )
