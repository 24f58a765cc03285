"""The process that renders templates: JSON comes in, JSON goes out. `templating` starts it."""

import json
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

ERROR_CHARACTERS = 500


class TooLong(Exception):
    """Templates come to more than they may."""


def main() -> None:
    """Render what standard input asks for."""
    asked = json.load(sys.stdin)
    _confine(asked["seconds"], asked["memory_bytes"])
    answer: dict[str, Any]
    try:
        answer = {"rendered": _rendered(asked)}
    except TooLong:
        answer = {"error": f"it comes to more than {asked['most_bytes']:,} bytes; shorten it"}
    except TemplateError as error:
        answer = {"error": f"{error.message or type(error).__name__}"[:ERROR_CHARACTERS]}
    except MemoryError:
        answer = {"error": "it takes more memory than there is; simplify it"}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]}
    json.dump(answer, sys.stdout)


def _confine(seconds: int, memory_bytes: int) -> None:
    # A system without one of these limits has the others, and the parent's clock.
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))


def _rendered(asked: Mapping[str, Any]) -> list[str]:
    # What is rendered goes out as plain text and JSON, not as HTML.
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    found, left = [], int(asked["most_bytes"])
    for template in asked["templates"]:
        parts = []
        for part in environment.from_string(template).generate(asked["context"]):
            parts.append(part)
            left -= len(part.encode())
            if left < 0:
                raise TooLong
        found.append("".join(parts))
    return found


if __name__ == "__main__":
    main()
