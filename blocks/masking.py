"""Hiding secrets in what others answer: some repeat what they were sent, in one form or another."""

import base64
import binascii
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MASK = "**********"

SHORTEST = 4
"""Characters from which on a secret is hidden wherever it stands, and a part of one as a word by
itself; what is shorter stands everywhere."""

LAYERS = 2
"""In so many forms at once a secret is looked for, such as in a query that stands in JSON."""

LONG = 12
"""Characters from which on a part is hidden wherever it stands, not only as a word by itself."""

MOST_PARTS = 20
"""Parts of one secret that are hidden by themselves; each is looked for in some fifteen forms."""

MOST_TURNS = 5
"""Of a text that still holds secrets after so many forms, nothing is shown."""

_CREDENTIALS = re.compile(r"[A-Za-z][A-Za-z0-9-]* +(\S+)")
_PAIR = re.compile(r"\s*[A-Za-z0-9_.-]+=(.+?)\s*")
_JSON = re.compile(r"((?:\\u[0-9a-fA-F]{4})+)|((?:\\x[0-9a-fA-F]{2})+)|\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_TOO_LONG = re.compile(r"&#(?:0*[0-9]{8,}|[xX]0*[0-9a-fA-F]{7,});?")
_QUOTED = re.compile(r"(?:%[0-9a-fA-F]{2})+|\+")


class Masking:
    """Hides secrets in what is shown.

    Args:
        secrets: Texts that nobody may see. Of the value of a header, its credentials, its
            password and its cookies are hidden by themselves, too.

    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: dict[str, bool] = {}
        for form, word in (found for one in secrets for found in _forms(one)):
            if form not in MASK:
                forms[form] = word and forms.get(form, True)
        self._forms = sorted(forms.items(), key=lambda form: len(form[0]), reverse=True)

    def text(self, text: str) -> str:
        """Return a text without the secrets.

        They are hidden as they are, in base64, and as JSON, URLs, HTML and Python escape them. A
        text that holds one in such a form is returned without the escapes of that form.
        """
        if not self._forms:
            return text
        for _ in range(MOST_TURNS):
            text = self._plain(text)
            if (shown := self._deeper(text)) is None:
                return text
            text = shown
        return MASK

    def json(self, value: Any) -> Any:
        """Return a value of JSON without the secrets, in its texts and its keys.

        Raises:
            RecursionError: It is nested too deep.
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.json(one) for one in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value if self.text(said := json.dumps(value)) == said else MASK
        if isinstance(value, dict):
            return {self.text(key): self.json(one) for key, one in value.items()}
        return value

    def _deeper(self, text: str) -> str | None:
        """Return a text without those escapes that a secret stands behind; None if none does."""
        layer = [text]
        for _ in range(LAYERS):
            layer = [
                read for one in layer for unescape in _UNESCAPES if (read := unescape(one)) != one
            ]
            for one in layer:
                if (shown := self._plain(one)) != one:
                    return shown
        return None

    def _plain(self, text: str) -> str:
        for form, word in self._forms:
            if form not in text:
                continue
            if word:
                text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", MASK, text)
            else:
                text = text.replace(form, MASK)
        return text


def _forms(secret: str) -> Iterator[tuple[str, bool]]:
    """Yield each form, and whether it is hidden only where it stands as a word by itself."""
    for part in {secret, *_parts(secret)}:
        word = len(part) < (SHORTEST if part == secret else LONG)
        for form in (part, part.lower(), part.encode(errors="replace").decode("latin-1")):
            yield form, word
        for form in _in_base64(part.encode(errors="replace")):
            yield form, False


def _parts(secret: str) -> Iterator[str]:
    found = []
    if match := _CREDENTIALS.fullmatch(secret):
        found += [match[1], *_of_basic(match[1])]
    found += [pair[1] for one in secret.split(";") if (pair := _PAIR.fullmatch(one))]
    yield from [one for one in found if len(one) >= SHORTEST][:MOST_PARTS]


def _of_basic(credentials: str) -> Iterator[str]:
    try:
        said = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):
        return
    if ":" in said:
        yield from (said, said.partition(":")[2])


def _in_base64(data: bytes) -> Iterator[str]:
    """Yield what base64 makes of data wherever in a longer text it stands: whole digits only."""
    for before in range(3):
        digits = base64.b64encode(b"\0" * before + data).decode()
        last = (before + len(data)) * 8 // 6
        inner = digits[-(-before * 8 // 6) : last]
        if len(inner) >= 2 * SHORTEST:
            yield from (inner, inner.replace("+", "-").replace("/", "_"))


def _without_json(text: str) -> str:
    return _JSON.sub(_unescaped, text) if "\\" in text else text


def _unescaped(match: re.Match[str]) -> str:
    units, octets, other = match.groups()
    if units:
        data = bytes.fromhex(units.replace("\\u", ""))
        return data.decode("utf-16-be", errors="replace")
    return (
        bytes.fromhex(octets.replace("\\x", "")).decode(errors="replace")
        if octets
        else _ESCAPES.get(other, other)
    )


def _without_quotes(text: str) -> str:
    return _QUOTED.sub(_unquoted, text) if "%" in text or "+" in text else text


def _unquoted(match: re.Match[str]) -> str:
    said = match[0]
    return " " if said == "+" else bytes.fromhex(said.replace("%", "")).decode(errors="replace")


def _without_html(text: str) -> str:
    # No character has so long a number, and Python reads none that is longer still.
    return html.unescape(_TOO_LONG.sub("\N{REPLACEMENT CHARACTER}", text)) if "&" in text else text


_UNESCAPES: tuple[Callable[[str], str], ...] = (_without_json, _without_quotes, _without_html)
