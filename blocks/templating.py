"""Rendering templates that somebody else wrote, in a process that can do nothing else.

Jinja2's sandbox bounds what a template may reach, not what it may cost: `{{ 'a' * 10**10 }}` and
loops in loops are up to the system to stop. So a process of its own renders them, which has no
environment, little memory, little time, and ends with the step.
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS = 3
"""Of the processor, and four times that by the clock, for all templates of a step."""
MOST_BYTES = 256 * 1024
"""What they may come to together."""
MEMORY_BYTES = 512 << 20
"""Of addresses, of which Python itself takes some 50 MiB."""

_PROGRAM = Path(__file__).with_name("template_process.py")


class TemplateError(Exception):
    """A template cannot be rendered; the message says why."""


async def render(templates: Sequence[str], context: Mapping[str, Any]) -> list[str]:
    """Return what templates come to.

    Args:
        templates: Texts of Jinja2.
        context: What they can read; of JSON.

    Raises:
        TemplateError: One cannot be rendered, or they take too much.
    """
    asked = {
        "templates": list(templates),
        "context": context,
        "most_bytes": MOST_BYTES,
        "seconds": SECONDS,
        "memory_bytes": MEMORY_BYTES,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", str(_PROGRAM)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
        cwd="/",
    )
    try:
        async with asyncio.timeout(SECONDS * 4):
            said, _ = await process.communicate(json.dumps(asked).encode())
    except TimeoutError:
        raise TemplateError(f"it took more than {SECONDS * 4} s; simplify it") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode != 0:
        raise TemplateError(
            f"it took more than {SECONDS} s of the processor, or more memory than there is; "
            "simplify it"
        )
    answer = json.loads(said)
    if "error" in answer:
        raise TemplateError(answer["error"])
    rendered: list[str] = answer["rendered"]
    return rendered
