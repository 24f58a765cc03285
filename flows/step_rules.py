"""Which step is next: the first rule that holds of a step's output says it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import re2

from flows.step_values import Unfit, at

MATCHED_CHARACTERS = 65_536
"""Of a text that a pattern is looked for in. RE2 takes time in proportion to it."""

SECONDS = 10.0
"""For all rules of a step. One pattern takes up to some 3 s."""

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.never_capture = True
_OPTIONS.max_mem = 256 * 1024


def following(rules: Sequence[Mapping[str, Any]], output: Any) -> str | None:
    """Return the name of the step that is next; None where no rule holds.

    Args:
        rules: Each with `when`, a list of filters all of which have to hold, and `step`.
        output: What the step before has put out.

    Raises:
        Unfit: They take too long.
    """
    ends = time.monotonic() + SECONDS
    for rule in rules:
        if all(holds(one, output, ends) for one in rule["when"]):
            return str(rule["step"])
    return None


def holds(one: Mapping[str, Any], output: Any, ends: float = math.inf) -> bool:
    """Whether a filter holds; of what is not there, none does."""
    if time.monotonic() > ends:
        raise Unfit(f"Its rules take more than {SECONDS:g} s; simplify their patterns")
    found, value = at(output, one.get("path", ""))
    return found and _COMPARISONS[one["is"]](value, one["value"])


def _equal(value: Any, other: Any) -> bool:
    # Python takes true for 1; JSON does not.
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _in_order(value: Any, other: Any) -> bool:
    numbers = all(
        isinstance(one, int | float) and not isinstance(one, bool) for one in (value, other)
    )
    return numbers or (isinstance(value, str) and isinstance(other, str))


def _contains(value: Any, other: Any) -> bool:
    if isinstance(value, str):
        return isinstance(other, str) and other in value
    if isinstance(value, Mapping):
        return isinstance(other, str) and other in value
    return isinstance(value, list) and any(_equal(one, other) for one in value)


def _matches(value: Any, pattern: Any) -> bool:
    if not isinstance(value, str):
        return False
    return bool(re2.search(pattern, value[:MATCHED_CHARACTERS], options=_OPTIONS))


_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "equal": _equal,
    "not_equal": lambda value, other: not _equal(value, other),
    "greater": lambda value, other: _in_order(value, other) and value > other,
    "less": lambda value, other: _in_order(value, other) and value < other,
    "contains": _contains,
    "matches": _matches,
}
