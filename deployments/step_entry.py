"""Steps of actions, and templates of steps, as their users write them; no I/O.

steps:
  - name: fetch
    kind: http
    input: {url: "https://example.com/orders"}
    next:
      - when: [{path: body.total, is: greater, value: 100}]
        step: tell
  - name: tell
    kind: slack
    input: {block: slack-webhook/ops, text: {$template: "{{ steps.fetch.output.body.total }}"}}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from deployments.entry import SLUG, Parameters, Strict, Text
from deployments.step_inputs import KINDS

MOST_STEPS = 100
MOST_RULES = 50
"""Rules of a step, and filters of a rule."""

STEP = r"^[a-z][a-z0-9_]*$"
"""As templates can name them."""

LONGEST_SECONDS = 86_400

StepName = Annotated[str, Field(pattern=STEP, max_length=63)]
Name = Annotated[str, Field(pattern=f"^{SLUG}$", max_length=63)]

_INPUT = "what the kind takes; parts of it may be {$template: text} or {$from: path}"
_KIND = f"one of {', '.join(KINDS)}"


class Filter(Strict):
    """What has to hold of a step's output."""

    path: Text = Field(
        "",
        max_length=1000,
        description="names and places joined by dots, such as body.items.0.id; empty for all of it",
        examples=["body.total"],
    )
    is_: Literal["equal", "not_equal", "greater", "less", "contains", "matches"] = Field(
        alias="is",
        description="equal, not_equal, greater, less, contains or matches",
        examples=["greater"],
    )
    value: Text | int | float | bool | None = Field(
        description="a text, a number, true, false or null to compare with; for matches a pattern "
        "of RE2",
        examples=[100],
    )


class Rule(Strict):
    """Which step is next where all the filters hold."""

    when: list[Filter] = Field(
        [],
        max_length=MOST_RULES,
        description="a list of at most 50 filters; without any it always holds",
    )
    step: StepName = Field(description="the name of another step", examples=["tell"])


class Step(Strict):
    """One step of an action; each description says what the key takes."""

    name: StepName = Field(
        description="lower-case letters, digits and underscores, a letter first, at most 63",
        examples=["fetch"],
    )
    kind: Text | None = Field(None, description=_KIND, examples=["http"])
    template: Name | None = Field(
        None, description="the name of a step template, in place of kind", examples=["orders"]
    )
    input: Parameters = Field(
        {}, description=_INPUT, examples=[{"url": "https://example.com/orders"}]
    )
    timeout_seconds: float | None = Field(
        None,
        gt=0,
        le=LONGEST_SECONDS,
        description="a number of seconds above 0, up to 86400; else 60",
        examples=[60],
    )
    retries: int | None = Field(
        None, ge=0, le=100, description="a whole number from 0 to 100; else 0", examples=[2]
    )
    retry_delay_seconds: int | None = Field(
        None,
        ge=0,
        le=LONGEST_SECONDS,
        description="a whole number of seconds from 0 to 86400; else 0",
        examples=[10],
    )
    next: list[Rule] = Field(
        [],
        max_length=MOST_RULES,
        description="a list of at most 50 rules; the first that holds says which step is next",
        examples=[[{"step": "tell"}]],
    )

    @model_validator(mode="after")
    def _of_one_make(self) -> Step:
        if (self.kind is None) == (self.template is None):
            raise ValueError("it needs either a kind or a template; give one of both")
        return self


class ActionBody(Strict):
    """What an action says."""

    title: Text | None = Field(
        None,
        max_length=255,
        description="a text of at most 255 characters",
        examples=["Large orders"],
    )
    description: Text | None = Field(
        None,
        max_length=16384,
        description="a text of at most 16384 characters",
        examples=["Tells of large orders."],
    )
    steps: list[Step] = Field(
        min_length=1,
        max_length=MOST_STEPS,
        description="a list of 1 to 100 steps",
        examples=[[{"name": "hello", "kind": "log", "input": {"text": "Hello"}}]],
    )

    @property
    def values(self) -> dict[str, Any]:
        """All columns of the user's, steps without what is left out of them."""
        return {**self.model_dump(exclude={"name", "steps"}), "steps": self.plain}

    @property
    def plain(self) -> list[dict[str, Any]]:
        """The steps as JSON."""
        return [one.model_dump(by_alias=True, exclude_unset=True) for one in self.steps]


class NewAction(ActionBody):
    """An action with its name."""

    name: Name = Field(
        description="lower-case letters, digits and single dashes, at most 63",
        examples=["large-orders"],
    )


class TemplateBody(Strict):
    """What a step template says."""

    description: Text | None = Field(
        None,
        max_length=16384,
        description="a text of at most 16384 characters",
        examples=["Asks for the orders."],
    )
    kind: Text = Field(description=_KIND, examples=["http"])
    input: Parameters = Field(
        {},
        description=f"{_INPUT}; a step's own comes over it, name by name",
        examples=[{"url": "https://example.com/orders"}],
    )
    timeout_seconds: float | None = Field(
        None,
        gt=0,
        le=LONGEST_SECONDS,
        description="a number of seconds above 0, up to 86400",
        examples=[60],
    )
    retries: int | None = Field(
        None, ge=0, le=100, description="a whole number from 0 to 100", examples=[2]
    )
    retry_delay_seconds: int | None = Field(
        None,
        ge=0,
        le=LONGEST_SECONDS,
        description="a whole number of seconds from 0 to 86400",
        examples=[10],
    )

    @property
    def values(self) -> dict[str, Any]:
        """All columns of the user's."""
        return self.model_dump(exclude={"name"})


class NewTemplate(TemplateBody):
    """A step template with its name."""

    name: Name = Field(
        description="lower-case letters, digits and single dashes, at most 63", examples=["orders"]
    )
