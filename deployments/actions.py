"""Whether the steps of an action make a graph that can be run; no I/O.

       root ──> fetch ──[total > 100]──> tell
                  └────[always]────────> file ──> tell

A run goes one way through it: the first rule of a step that holds says which step is next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from deployments.inputs import InvalidInput, check_regex
from deployments.owned_blocks import in_step
from deployments.reasons import lines
from deployments.step_entry import ActionBody, Step
from deployments.step_inputs import FROM, TEMPLATE, faults, wrapped, wrappers
from deployments.step_texts import Unreadable, step_of_path, steps_of_template

TIMEOUT_SECONDS = 60.0

Templates = Mapping[str, Mapping[str, Any]]
"""Step templates by name: their kind, input, timeout_seconds, retries, retry_delay_seconds."""


class Faulty(ValueError):
    """An action cannot be run.

    Attributes:
        faults: What is wrong, a line for each thing: field, value, remedy.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Runnable:
    """An action as it is run.

    Attributes:
        first: The step that it begins with.
        steps: All of them, with what they take from their templates.
    """

    first: str
    steps: Sequence[Mapping[str, Any]]


def read(steps: Any) -> ActionBody:
    """Return steps that may have been written by SQL.

    Raises:
        Faulty: They are none.
    """
    try:
        return ActionBody.model_validate({"steps": steps})
    except ValidationError as error:
        raise Faulty(list(lines(error, ActionBody))) from None


def runnable(tenant: str, steps: Sequence[Step], templates: Templates) -> Runnable:
    """Return an action as it is run.

    Args:
        tenant: Whose it is.
        steps: Its steps.
        templates: What they may be made from.

    Raises:
        Faulty: It cannot be.
    """
    found = [*_of_names(steps), *_of_ways(steps)]
    if found:
        raise Faulty(found)
    graph = _Graph(steps)
    found += graph.faults
    whole = [_whole(one, templates) for one in steps]
    for number, (step, made) in enumerate(zip(steps, whole, strict=True)):
        where = f"steps.{number}"
        if made is None:
            known = ", ".join(templates) or "none"
            found.append(f"{where}.template: there is no {step.template!r}; there are {known}")
            continue
        found += [f"{where}.{line}" for line in faults(made["kind"], made["input"])]
        found += [f"{where}.{line}" for line in in_step(tenant, made["kind"], made["input"])]
        found += [f"{where}.{line}" for line in _of_rules(step)]
        if not graph.faults:
            found += [f"{where}.{line}" for line in _of_reading(step.name, made["input"], graph)]
    if found:
        raise Faulty(found)
    return Runnable(graph.roots[0], [one for one in whole if one is not None])


def names_template(steps: Any, name: str) -> bool:
    """Whether one of the steps is made from a template."""
    return any(isinstance(one, Mapping) and one.get("template") == name for one in steps)


def _whole(step: Step, templates: Templates) -> dict[str, Any] | None:
    given = {}
    if step.template is not None:
        if step.template not in templates:
            return None
        given = dict(templates[step.template])
    merged = step.input
    if isinstance(inner := given.get("input"), Mapping) and inner and wrapped(merged) is None:
        merged = {**inner, **merged}
    delay = _first(step.retry_delay_seconds, given.get("retry_delay_seconds"), 0)
    return {
        "name": step.name,
        "kind": step.kind or given["kind"],
        "input": merged,
        "timeout_seconds": _first(
            step.timeout_seconds, given.get("timeout_seconds"), TIMEOUT_SECONDS
        ),
        "retries": _first(step.retries, given.get("retries"), 0),
        "retry_delay_seconds": delay,
        "next": [one.model_dump(by_alias=True) for one in step.next],
    }


def _first(*values: Any) -> Any:
    return next(one for one in values if one is not None)


def _of_names(steps: Sequence[Step]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for number, one in enumerate(steps):
        if (first := seen.setdefault(one.name, number)) != number:
            yield f"steps.{number}.name: {one.name!r} is that of steps.{first} too; give another"


def _of_ways(steps: Sequence[Step]) -> Iterator[str]:
    names = {one.name for one in steps}
    for number, one in enumerate(steps):
        for place, rule in enumerate(one.next):
            if rule.step not in names:
                yield (
                    f"steps.{number}.next.{place}.step: there is no step {rule.step!r}; there are "
                    f"{', '.join(sorted(names)):.500}"
                )


class _Graph:
    """Who leads to whom."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._after = {one.name: {rule.step for rule in one.next} for one in steps}
        self._before: dict[str, set[str]] = {name: set() for name in self._after}
        for name, following in self._after.items():
            for one in following:
                self._before[one].add(name)
        self.roots = [name for name, leading in self._before.items() if not leading]
        self.faults: list[str] = []
        order, cycle = self._ordered()
        if cycle:
            way = " -> ".join(cycle)
            self.faults.append(f"steps: they lead in a circle, {way}; take one of these rules out")
        elif len(self.roots) > 1:
            self.faults.append(
                f"steps: nothing leads to {', '.join(self.roots[1:]):.500}, while "
                f"{self.roots[0]} is the first; name them in `next` of another step, or remove them"
            )
        # Without a circle, and with one root, whoever goes back from any step ends at that root.
        self.some: dict[str, set[str]] = {}
        self.every: dict[str, set[str]] = {}
        for name in order:
            leading = self._before[name]
            self.some[name] = set().union(*(self.some[one] | {one} for one in leading))
            ways = [self.every[one] | {one} for one in leading]
            self.every[name] = set.intersection(*ways) if ways else set()

    def _ordered(self) -> tuple[list[str], list[str]]:
        """Return the steps, each after those that lead to it; or a circle."""
        left = {name: set(leading) for name, leading in self._before.items()}
        order: list[str] = []
        while ready := [name for name, leading in left.items() if not leading]:
            for name in ready:
                del left[name]
                order.append(name)
            for leading in left.values():
                leading.difference_update(ready)
        if not left:
            return order, []
        way = [next(iter(left))]
        while way.count(way[-1]) == 1:
            way.append(min(left[way[-1]]))
        return [], [*way[: way.index(way[-1]) : -1], way[-1]]


def _of_rules(step: Step) -> Iterator[str]:
    for place, rule in enumerate(step.next):
        for number, one in enumerate(rule.when):
            where = f"next.{place}.when.{number}.value"
            a_number = isinstance(one.value, int | float) and not isinstance(one.value, bool)
            if one.is_ in ("greater", "less") and not a_number and not isinstance(one.value, str):
                yield f"{where}: {one.value!r} has no order; give a number or a text"
            elif one.is_ == "matches":
                if not isinstance(one.value, str):
                    yield f"{where}: {one.value!r} is no pattern; give a text"
                    continue
                try:
                    check_regex(where, one.value)
                except InvalidInput as error:
                    yield str(error)


def _of_reading(name: str, value: Any, graph: _Graph) -> Iterator[str]:
    """Yield what an input reads that is not there when its step runs.

    A template can ask whether a step has run (`is defined`), so it may read one that comes before
    on some way; `$from` cannot, and its step has to come before on every way.
    """
    for where, kind, said in wrappers(value):
        try:
            if kind == TEMPLATE and isinstance(said, str):
                read, before = steps_of_template(said), graph.some[name]
                how = "does not come before this one"
            elif kind == FROM and isinstance(said, str):
                one, before = step_of_path(said), graph.every[name]
                read = {one} if one is not None else set()
                how = f"does not come before this one on every way; use a {TEMPLATE} that asks"
            else:
                continue
        except Unreadable as error:
            yield f"{where}.{kind.removeprefix('$')}: {error}"
            continue
        for missing in sorted(read - before):
            yield f"{where}.{kind.removeprefix('$')}: the step {missing!r} {how}"
