"""Which steps the templates and paths of an input read, found without rendering anything.

A template is only parsed here. To compile one would work its constants out, however large.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROOTS = ("steps", "input", "occurrence")
MOST_CHARACTERS = 32_768

# What is rendered goes out as plain text and JSON, not as HTML.
_ENVIRONMENT = ImmutableSandboxedEnvironment(autoescape=False)
_OWN = {*_ENVIRONMENT.globals, "loop", "self", "caller", "varargs", "kwargs"}
_ELSEWHERE = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class Unreadable(ValueError):
    """A template or a path cannot be read; the message says why, and what to do."""


def steps_of_template(text: str) -> set[str]:
    """Return the names of the steps that a template reads.

    Raises:
        Unreadable: It is no template, or reads what there is not.
    """
    if len(text) > MOST_CHARACTERS:
        raise Unreadable(f"it is longer than {MOST_CHARACTERS:,} characters; shorten it")
    try:
        tree = _ENVIRONMENT.parse(text)
        return set(_steps(tree))
    except TemplateSyntaxError as error:
        raise Unreadable(f"line {error.lineno}: {error.message}; mend the template") from None
    except RecursionError:
        raise Unreadable("it is nested too deep; simplify it") from None
    except ValueError as error:  # a number of thousands of digits
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"{error}; mend the template") from None


def _steps(tree: nodes.Template) -> Iterator[str]:
    for elsewhere in tree.find_all(_ELSEWHERE):
        raise Unreadable(
            f"line {elsewhere.lineno}: there are no other templates; write it out here"
        )
    for called in tree.find_all(nodes.Filter):
        if called.name not in _ENVIRONMENT.filters:
            raise Unreadable(f"there is no filter {called.name!r}; take another")
    for asked in tree.find_all(nodes.Test):
        if asked.name not in _ENVIRONMENT.tests:
            raise Unreadable(f"there is no test {asked.name!r}; take another")
    names = list(tree.find_all(nodes.Name))
    own = _OWN | {one.name for one in names if one.ctx != "load"}
    own |= {one.name for one in tree.find_all(nodes.Macro)}
    for one in names:
        if one.name not in own and one.name not in ROOTS:
            raise Unreadable(
                f"there is no {one.name!r}; a template can read {', '.join(ROOTS)}, and a step's "
                "output as steps.NAME.output"
            )
    yield from _named(tree)


def _named(tree: nodes.Template) -> Iterator[str]:
    for one in tree.find_all(nodes.Getattr):
        if isinstance(one.node, nodes.Name) and one.node.name == "steps":
            yield one.attr
    for item in tree.find_all(nodes.Getitem):
        of_steps = isinstance(item.node, nodes.Name) and item.node.name == "steps"
        if of_steps and isinstance(item.arg, nodes.Const):
            yield str(item.arg.value)


def step_of_path(path: str) -> str | None:
    """Return the name of the step that a path reads; None where it reads something else.

    Raises:
        Unreadable: It reads nothing that there is.
    """
    root, *rest = path.split(".")
    if root not in ROOTS:
        raise Unreadable(f"{path!r:.60} begins with none of {', '.join(ROOTS)}")
    if root != "steps":
        return None
    if len(rest) < 2 or rest[1] != "output":
        raise Unreadable(f"{path!r:.60} is no path to an output; write steps.NAME.output")
    return rest[0]
