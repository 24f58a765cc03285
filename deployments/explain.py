"""Changes become text, JSON and Markdown: a second reader of the plan, which applies nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from deployments.plan import Changes
from deployments.reconcile import Comparison
from deployments.spec import Difference

SECRET = ("secret", "token", "password", "apikey", "api_key", "credential")


def lines(changes: Changes) -> Iterator[str]:
    """Yield a line for each change, the order in which they are carried out."""
    for deployed in changes.delete:
        yield f"delete {deployed.spec.reference} ({deployed.spec.flow_name})"
    for spec in changes.create:
        yield f"create {spec.reference} ({spec.flow_name})"
    for update in changes.update:
        what = ", ".join(_difference(one) for one in update.differences)
        yield f"update {update.desired.reference}: {what}"


def data(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison in JSON's types, for programs."""
    changes = comparison.plan.changes
    references = {str(one.id): one.reference for one in comparison.roster.definitions}
    return {
        "create": [spec.reference for spec in changes.create],
        "update": [
            {
                "definition": update.desired.reference,
                "differences": [
                    {"field": one.field, "from": _open(one.field, one.current)}
                    | {"to": _open(one.field, one.desired)}
                    for one in update.differences
                ],
            }
            for update in changes.update
        ],
        "delete": [deployed.spec.reference for deployed in changes.delete],
        "unchanged": len(comparison.plan.unchanged),
        "problems": {references[key]: problem for key, problem in comparison.problems.items()},
    }


def table(comparison: Comparison) -> list[dict[str, str]]:
    """Return a row for each change and each problem, for a table."""
    said = data(comparison)
    rows = [_row("delete", one) for one in said["delete"]]
    rows += [_row("create", one) for one in said["create"]]
    rows += [
        _row("update", one["definition"], difference)
        for one in said["update"]
        for difference in one["differences"]
    ]
    return rows + [
        {"change": "problem", "definition": one, "field": "", "from": "", "to": why}
        for one, why in said["problems"].items()
    ]


def summary(comparison: Comparison) -> str:
    """Return how many there are of each, in one line."""
    said = data(comparison)
    counts = [
        f"{len(said[what])} to {what}" for what in ("create", "update", "delete") if said[what]
    ]
    counts.append(f"{said['unchanged']} unchanged")
    if said["problems"]:
        counts.append(f"{len(said['problems'])} with a problem")
    return ", ".join(counts)


def _row(
    change: str, definition: str, difference: Mapping[str, Any] | None = None
) -> dict[str, str]:
    shown = difference or {"field": "", "from": "", "to": ""}
    return {
        "change": change,
        "definition": definition,
        "field": shown["field"],
        "from": _text(shown["from"]),
        "to": _text(shown["to"]),
    }


def _difference(difference: Difference) -> str:
    old = _text(_open(difference.field, difference.current))
    new = _text(_open(difference.field, difference.desired))
    return f"{difference.field} from {old} to {new}"


def _open(field: str, value: Any) -> Any:
    """Return a value as it may be shown: of schedules the gist, of schemas nothing, no secrets."""
    if field == "parameter_schema":
        return "(a schema)"
    if field == "schedules":
        return [_schedule(one) for one in value]
    return masked(value)


def _schedule(schedule: Mapping[str, Any]) -> dict[str, Any]:
    when = {key: value for key, value in schedule["schedule"].items() if value is not None}
    extra = {} if schedule["slug"] == "definition" else {"slug": schedule["slug"]}
    if not schedule["active"]:
        extra["active"] = False
    if schedule["parameters"]:
        extra["parameters"] = masked(schedule["parameters"])
    return when | extra


def masked(value: Any) -> Any:
    """Return a JSON value without what stands under a key that speaks of a secret."""
    if isinstance(value, Mapping):
        return {
            key: "********" if any(hint in str(key).lower() for hint in SECRET) else masked(one)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(one) for one in value]
    return value


def _text(value: Any) -> str:
    # A line break would begin another line of the plan, or of the log.
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
