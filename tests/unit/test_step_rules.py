"""Which step is next, by what the one before has put out."""

import time

import pytest

from flows.step_rules import following, holds

OUTPUT = {
    "status": 200,
    "body": {"total": 120.5, "name": "Ada", "ids": [1, "2", True], "none": None},
}


def rule(step, *when):
    filters = [dict(zip(("path", "is", "value"), one, strict=True)) for one in when]
    return {"when": filters, "step": step}


@pytest.mark.parametrize(
    ("path", "comparison", "value", "expected"),
    [
        ("status", "equal", 200, True),
        ("status", "equal", 200.0, True),
        ("status", "equal", "200", False),
        ("body.ids.2", "equal", True, True),
        ("body.ids.2", "equal", 1, False),
        ("body.ids.0", "equal", True, False),
        ("body.none", "equal", None, True),
        ("body.missing", "equal", None, False),
        ("body.missing", "not_equal", 1, False),
        ("status", "not_equal", 404, True),
        ("body.total", "greater", 100, True),
        ("body.total", "less", 100, False),
        ("body.name", "greater", "Aaa", True),
        ("body.name", "greater", 1, False),
        ("body.ids.2", "greater", 0, False),
        ("body.name", "contains", "d", True),
        ("body.ids", "contains", "2", True),
        ("body.ids", "contains", 2, False),
        ("body", "contains", "total", True),
        ("status", "contains", 2, False),
        ("body.name", "matches", "^A.a$", True),
        ("body.name", "matches", "^a", False),
        ("status", "matches", "200", False),
        ("body.ids.9", "equal", 1, False),
        ("body.ids.-1", "equal", True, False),
        ("body.name.0", "equal", "A", False),
    ],
)
def test_a_filter_holds_of_what_is_there_and_fits(path, comparison, value, expected):
    assert holds({"path": path, "is": comparison, "value": value}, OUTPUT) is expected


def test_without_a_path_a_filter_is_about_the_whole_output():
    assert holds({"is": "contains", "value": "status"}, OUTPUT)


def test_the_first_rule_of_which_all_filters_hold_decides():
    both = rule("both", ("status", "equal", 200), ("body.name", "equal", "Eve"))
    large, any_other = rule("large", ("body.total", "greater", 100)), rule("other")

    assert following([both, large, any_other], OUTPUT) == "large"
    assert following([both, any_other, large], OUTPUT) == "other"
    assert following([both], OUTPUT) is None
    assert following([], OUTPUT) is None


def test_a_pattern_takes_no_time_out_of_proportion():
    evil = {"path": "", "is": "matches", "value": "(a+)+$"}
    began = time.perf_counter()

    assert not holds(evil, "a" * 60_000 + "b")

    assert time.perf_counter() - began < 2
