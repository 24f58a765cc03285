"""What whoever starts a run may say: declared once, checked each time."""

import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.entry import InputEntry
from deployments.inputs import (
    MOST,
    REGEX_BYTES,
    VALUE_BYTES,
    Input,
    InvalidInput,
    declared,
    defaults,
    filled,
)

BRANCH = Input("branch", required=True, default="main", regex="^[a-z0-9/-]+$")
SIZE = Input("size", options=("s", "m", "l"))


def refused(*rows: Any) -> str:
    with pytest.raises(InvalidInput) as error:
        declared(rows)
    return str(error.value)


def refused_values(inputs: list[Input], values: dict[str, Any]) -> str:
    with pytest.raises(InvalidInput) as error:
        filled(inputs, {}, values)
    return str(error.value)


# -- declaring


def test_an_input_is_what_its_row_says():
    row = {
        "name": "branch",
        "required": True,
        "description": "What to build",
        "default": "main",
        "options": ["main", "next"],
        "regex": "^[a-z]+$",
    }
    assert declared([row]) == (
        Input("branch", True, "What to build", "main", ("main", "next"), "^[a-z]+$"),
    )


def test_a_name_is_enough():
    nothing = {"description": None, "default": None, "options": None, "regex": None}
    assert declared([{"name": "a"}, {"name": "b", **nothing}]) == (Input("a"), Input("b"))


def test_the_row_and_its_model_have_the_same_keys():
    assert list(InputEntry.model_fields) == list(Input.__dataclass_fields__)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("branch", "inputs.0: it is no object; begin with its name"),
        ({}, "inputs.0.name: None does not fit; give letters, digits, _, . and -, a letter or _"),
        ({"name": "two words"}, "inputs.0.name: 'two words' does not fit; give letters"),
        ({"name": "a\n"}, "inputs.0.name: 'a\\n' does not fit; give letters"),
        ({"name": "1a"}, "inputs.0.name: '1a' does not fit; give letters"),
        ({"name": "a" * 129}, "inputs.0.name: 'aaa"),
        ({"name": "\ud800"}, "inputs.0.name: '\\ud800' does not fit"),
        ({"name": "a", "defualt": 1}, "inputs.a.defualt: there is no such key; there are name, re"),
        ({"name": "a", "required": 1}, "inputs.a.required: 1 does not fit; give true or false"),
        ({"name": "a", "default": 1}, "inputs.a.default: 1 is no text; write it in quotes"),
        ({"name": "a", "description": []}, "inputs.a.description: [] is no text; write it in quo"),
        ({"name": "a", "default": "\0"}, "inputs.a.default: '\\x00' cannot be stored: it holds a"),
        ({"name": "a", "regex": "\ud800"}, "inputs.a.regex: '\\ud800' cannot be stored: it holds"),
        ({"name": "a", "options": "x"}, "inputs.a.options: 'x' is no list; give a list of texts"),
        ({"name": "a", "options": 0}, "inputs.a.options: 0 is no list; give a list of texts"),
        ({"name": "a", "options": [1]}, "inputs.a.options: 1 is no text; write it in quotes"),
        (
            {"name": "a", "options": ["x"] * (MOST + 1)},
            "inputs.a.options: there are 101; give at most 100",
        ),
        (
            {"name": "a", "options": ["x" * (VALUE_BYTES + 1)]},
            "inputs.a.options: 'xxx",
        ),
        (
            {"name": "a", "default": "é" * (VALUE_BYTES // 2) + "!"},
            "inputs.a.default: 'ééé",
        ),
        (
            {"name": "a", "regex": "x" * (REGEX_BYTES + 1)},
            "inputs.a.regex: 'xxx",
        ),
        (
            {"name": "a", "regex": "(x"},
            "inputs.a.regex: '(x' is no pattern of RE2 (missing ): (x); mend it, without "
            "backreferences and lookarounds, which RE2 has not",
        ),
        ({"name": "a", "regex": r"(x)\1"}, "inputs.a.regex: '(x)\\\\1' is no pattern of RE2 (inva"),
        ({"name": "a", "regex": "(?=x)"}, "inputs.a.regex: '(?=x)' is no pattern of RE2 (invalid"),
        (
            {"name": "a", "regex": r"(.{0,999}\pL{0,999}){3}"},
            "inputs.a.regex: '(.{0,999}\\\\pL{0,999}){3}' ",
        ),
        (
            {"name": "a", "regex": "^x$", "default": "y"},
            "inputs.a.default: 'y' does not match ^x$; give a value that does",
        ),
        (
            {"name": "a", "options": ["x", "z"], "default": "y"},
            "inputs.a.default: 'y' is not among its options; give one of x, z",
        ),
    ],
)
def test_what_cannot_be_declared_is_named_with_its_remedy(row: Any, expected: str):
    said = refused(row)
    assert said.startswith(expected)
    assert "; " in said
    assert len(said) < 250


def test_a_pattern_that_would_take_too_much_memory_is_refused():
    assert refused({"name": "a", "regex": r"\pL{999}"}) == (
        "inputs.a.regex: '\\\\pL{999}' takes too much memory; repeat less in it"
    )
    assert refused({"name": "a", "regex": "(a?){1000}" * 20 + "b"}).endswith("repeat less in it")
    assert declared([{"name": "a", "regex": r"^[\w. /-]{1,255}$"}])


@pytest.mark.parametrize("key", ["default", "regex"])
def test_what_is_just_short_enough_is_taken(key: str):
    most = {"default": VALUE_BYTES, "regex": REGEX_BYTES}[key]
    assert declared([{"name": "a", key: "x" * most}])


def test_a_name_stands_once():
    assert refused({"name": "a"}, {"name": "b"}, {"name": "a"}) == (
        "inputs.a: it is declared twice; remove one"
    )


def test_there_is_an_end_to_them():
    assert declared([{"name": f"a{number}"} for number in range(MOST)])
    assert refused(*({"name": f"a{number}"} for number in range(MOST + 1))) == (
        "inputs: there are 101; declare at most 100"
    )


# -- values


def test_a_run_by_schedule_has_the_defaults():
    assert filled([BRANCH, SIZE], {"workflow_id": "w"}) == {
        "workflow_id": "w",
        "input": {"branch": "main"},
    }


def test_a_run_by_schedule_may_lack_what_is_required():
    assert filled([Input("who", required=True)], {}) == {"input": {}}


def test_parameters_without_inputs_are_left_as_they_are():
    assert filled([], {"workflow_id": "w"}) == {"workflow_id": "w"}
    assert filled([], {"input": [1]}, {}) == {"input": [1]}


def test_what_is_given_counts_most_and_the_defaults_least():
    inputs = [Input(name, default="default") for name in ("a", "b", "c")]
    own = {"input": {"b": "own", "c": "own", "more": 1}}

    assert filled(inputs, own, {"c": "given"}) == {
        "input": {"a": "default", "b": "own", "c": "given", "more": 1}
    }
    assert own == {"input": {"b": "own", "c": "own", "more": 1}}


@pytest.mark.parametrize("blank", ["", "  \t\n", None])
def test_a_blank_value_is_none(blank: str | None):
    assert filled([BRANCH], {}, {"branch": blank}) == {"input": {"branch": "main"}}
    assert filled([SIZE], {}, {"size": blank}) == {"input": {}}
    assert defaults([Input("a", default=blank)]) == {}


def test_a_value_is_trimmed():
    assert filled([BRANCH], {}, {"branch": " next\n"}) == {"input": {"branch": "next"}}


@pytest.mark.parametrize(
    ("inputs", "values", "expected"),
    [
        ([Input("who", True)], {}, "inputs.who: it is required; give a value"),
        ([Input("who", True)], {"who": " "}, "inputs.who: it is required; give a value"),
        (
            [BRANCH],
            {"branch": "No Caps"},
            "inputs.branch: 'No Caps' does not match ^[a-z0-9/-]+$; give a value that does",
        ),
        ([SIZE], {"size": "xl"}, "inputs.size: 'xl' is not among its options; give one of s, m, l"),
        ([SIZE], {"size": 1}, "inputs.size: 1 is no text; write it in quotes"),
        ([SIZE], {"size": ["s"]}, "inputs.size: ['s'] is no text; write it in quotes"),
        (
            [Input("a")],
            {"a": "é" * 2049},
            f"inputs.a: '{'é' * 59} is longer than 4,096 bytes as UTF-8; shorten it",
        ),
        (
            [Input("a")],
            {"a": "x\0"},
            "inputs.a: 'x\\x00' cannot be stored: it holds a NUL character; leave that out",
        ),
        (
            [Input("a")],
            {"a": "\udfff"},
            "inputs.a: '\\udfff' cannot be stored: it holds half of a surrogate pair; leave that "
            "out",
        ),
        (
            [BRANCH, SIZE],
            {"brunch": "x"},
            "inputs.brunch: nothing of this name is declared; there are branch, size",
        ),
        ([], {"a": "x"}, "inputs.a: nothing of this name is declared; there are none"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_remedy(inputs, values, expected):
    assert refused_values(inputs, values) == expected


def test_the_first_of_the_definition_is_named_first():
    values = {"size": "xl", "branch": "No Caps"}
    assert refused_values([BRANCH, SIZE], values).startswith("inputs.branch: ")
    assert refused_values([SIZE, BRANCH], values).startswith("inputs.size: ")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (
            {"branch": "No Caps"},
            "parameters.input.branch: 'No Caps' does not match ^[a-z0-9/-]+$; give a value that "
            "does",
        ),
        ({"branch": 1}, "parameters.input.branch: 1 is no text; write it in quotes"),
        (
            "main",
            "parameters.input: 'main' is no object; write names and values, to which the inputs "
            "are added",
        ),
    ],
)
@pytest.mark.parametrize("values", [None, {}])
def test_parameters_are_no_way_around_the_checks(own: Any, expected: str, values: Any):
    with pytest.raises(InvalidInput) as error:
        filled([BRANCH], {"input": own}, values)
    assert str(error.value) == expected


def test_a_pattern_may_match_anywhere_in_a_value():
    assert filled([Input("a", regex="b+")], {}, {"a": "abbc"}) == {"input": {"a": "abbc"}}
    assert "does not match ^b" in refused_values([Input("a", regex="^b")], {"a": "ab"})


@pytest.mark.parametrize(
    "regex",
    ["^(a+)+$", "^(a|aa)+$", "^(a|a?)+$", "^(([a-z])+.)+[A-Z]([a-z])+$", "^(.*a){20}$", "(x+x+)+y"],
)
def test_no_pattern_takes_longer_than_a_moment(regex: str):
    value = "a" * (VALUE_BYTES - 1) + "!"
    inputs = declared([{"name": "a", "regex": regex}])

    began = time.perf_counter()
    with pytest.raises(InvalidInput, match="does not match"):
        filled(inputs, {}, {"a": value})
    # A backtracking engine would need longer than there is time.
    assert time.perf_counter() - began < 0.2


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_is_written_is_taken_or_refused_in_words(regex: str, value: str):
    said = {}
    with suppress(InvalidInput):
        said = filled(declared([{"name": "a", "regex": regex}]), {}, {"a": value})["input"]
    assert said in ({}, {"a": value.strip()})
