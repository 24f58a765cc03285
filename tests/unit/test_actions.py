"""Whether steps make a graph that can be run, and what is said where they do not."""

import time

import pytest

from deployments.actions import Faulty, read, runnable
from deployments.step_inputs import faults
from flows.step_values import Unfit, filled


def log(name, *following, text="Hello", **fields):
    rules = [one if isinstance(one, dict) else {"step": one} for one in following]
    return {"name": name, "kind": "log", "input": {"text": text}, "next": rules, **fields}


def template(text):
    return {"$template": text}


def checked(*steps, templates=None):
    return runnable("acme", read(list(steps)).steps, templates or {})


def said(*steps, templates=None):
    with pytest.raises(Faulty) as refused:
        checked(*steps, templates=templates)
    return list(refused.value.faults)


# -- the graph


def test_the_step_that_nobody_leads_to_is_the_first():
    found = checked(log("b", "c"), log("c"), log("a", "b", "c"))

    assert found.first == "a"
    assert [one["name"] for one in found.steps] == ["b", "c", "a"]


def test_two_ways_may_meet_again():
    assert checked(log("a", "b", "c"), log("b", "d"), log("c", "d"), log("d")).first == "a"


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        (
            [log("a"), log("b")],
            "steps: nothing leads to b, while a is the first; name them in `next` of another "
            "step, or remove them",
        ),
        (
            [log("a", "a")],
            "steps: they lead in a circle, a -> a; take one of these rules out",
        ),
        (
            [log("a", "b"), log("b", "c"), log("c", "d"), log("d", "b")],
            "steps: they lead in a circle, b -> c -> d -> b; take one of these rules out",
        ),
        (
            [log("a", "b"), log("b", "x")],
            "steps.1.next.0.step: there is no step 'x'; there are a, b",
        ),
        (
            [log("a", "b"), log("b"), log("b")],
            "steps.2.name: 'b' is that of steps.1 too; give another",
        ),
    ],
)
def test_what_is_no_graph_is_told_by_what_is_wrong(steps, line):
    assert said(*steps) == [line]


def test_a_hundred_steps_each_leading_to_all_that_follow_are_checked_in_no_time():
    names = [f"s{number}" for number in range(100)]
    # The rules of a step are at most fifty.
    steps = [
        log(name, *names[number + 1 : number + 51], text=template("{{ steps.s0.output }}"))
        for number, name in enumerate(names)
    ]
    steps[0]["input"] = {"text": "Hello"}

    began = time.perf_counter()
    assert checked(*steps).first == "s0"

    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (
            {"name": "a"},
            "it needs either a kind or a template; give one of both",
        ),
        (
            {"name": "A-b", "kind": "log"},
            "steps.0.name: 'A-b' does not fit; give lower-case letters, digits and underscores, a "
            "letter first, at most 63",
        ),
        (
            {"name": "a", "kind": "log", "timeout_seconds": 0},
            "steps.0.timeout_seconds: 0 does not fit; give a number of seconds above 0, up to "
            "86400; else 60",
        ),
        (
            {"name": "a", "kind": "log", "then": []},
            "steps.0.then: there is no such key; there are name, kind, template, input, "
            "timeout_seconds, retries, retry_delay_seconds, next",
        ),
    ],
)
def test_what_is_no_step_is_told_by_its_field(step, line):
    [found] = said(step)
    assert found.endswith(line)


# -- what kinds take


@pytest.mark.parametrize(
    ("kind", "given", "line"),
    [
        ("ftp", {}, "kind: 'ftp' is none; give one of http, command, slack, log, workflow"),
        ("log", {}, "input.text: it is missing; log needs it"),
        ("log", {"text": "", "to": 1}, "input.to: log takes no such thing; it takes text, level"),
        (
            "http",
            {"url": "ftp://example.com"},
            "input.url: 'ftp://example.com': is no address of http or https",
        ),
        (
            "http",
            {"url": "https://me:word@example.com"},
            "input.url: 'https://me:word@example.com': holds a user or a password; send it in a "
            "header, as {$secret: name}",
        ),
        (
            "http",
            {"url": "https://example.com", "body": "a", "json": 1},
            "input.json: body is given too; leave one of both out",
        ),
        (
            "http",
            {"url": "https://example.com", "body": {"$secret": "ops"}},
            "input.body: $secret stands for the value of a header of http only; move it there",
        ),
        (
            "http",
            {"url": {"$template": 7}},
            "input.url: $template takes a text; write it in quotes",
        ),
        (
            "http",
            {"url": "https://example.com", "headers": {"A B": "x"}},
            "input.headers.A B.[key]: 'A B': String should match pattern '^[A-Za-z0-9-]{1,100}$'",
        ),
    ],
)
def test_an_input_that_does_not_fit_its_kind_is_told_by_its_field(kind, given, line):
    assert line in list(faults(kind, given))


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("http", {"url": "https://example.com/a?b=c", "json": {"a": [{"$from": "input.x"}]}}),
        ("http", {"url": template("{{ input.url }}"), "headers": {"X-Y": {"$secret": "ops"}}}),
        ("http", {"url": "http://[2001:db8::1]:8080/", "expect_status": [200, 404]}),
        ("slack", {"block": "slack-webhook/ops", "text": "Hello"}),
        ("log", {"text": "", "level": "warning"}),
        ("workflow", {"workflow_id": "sync", "input": {"$from": "steps.a.output"}}),
        ("log", {"$from": "steps.a.output"}),
    ],
)
def test_an_input_that_fits_passes_and_so_does_what_is_only_known_later(kind, given):
    assert list(faults(kind, given)) == []


@pytest.mark.parametrize("kind", ["http", "command", "slack", "workflow"])
def test_nobody_but_the_action_says_what_a_step_does(kind):
    for given in ({"$from": "steps.a.output.body"}, template("{{ steps.a.output.body }}")):
        [fault] = faults(kind, given)
        assert fault.startswith("input: only a log takes all of it from elsewhere")
    assert list(faults("command", {"command": {"$from": "steps.a.output.body"}})) != []


async def test_an_answer_names_no_secret():
    context = {"steps": {"a": {"output": {"body": {"$secret": "ops"}}}}}
    with pytest.raises(Unfit, match="names a secret, and only the action itself may"):
        await filled({"headers": {"X-A": {"$from": "steps.a.output.body"}}}, context)
    own = {"headers": {"X-A": {"$secret": "ops"}}}
    assert await filled(own, context) == own


def test_a_step_takes_from_its_template_what_it_does_not_say():
    templates = {
        "greet": {
            "kind": "log",
            "input": {"text": "Hello", "level": "debug"},
            "timeout_seconds": 5.0,
            "retries": 3,
            "retry_delay_seconds": None,
        }
    }
    made = {"name": "a", "template": "greet", "input": {"text": "Bye"}, "retries": 0}

    [step] = checked(made, templates=templates).steps

    assert step == {
        "name": "a",
        "kind": "log",
        "input": {"text": "Bye", "level": "debug"},
        "timeout_seconds": 5.0,
        "retries": 0,
        "retry_delay_seconds": 0,
        "next": [],
    }
    assert said({"name": "a", "template": "gret"}, templates=templates) == [
        "steps.0.template: there is no 'gret'; there are greet"
    ]


# -- what templates and paths read


def test_a_template_may_read_what_comes_before_on_some_way():
    text = template("{% if steps.b is defined %}{{ steps['b'].output }}{% endif %}")
    checked(log("a", "b", "c"), log("b", "c"), log("c", text=text))


def test_a_path_reads_only_what_comes_before_on_every_way():
    taken = {"$from": "steps.b.output.text"}
    checked(log("a", "b"), log("b", "c"), log("c", text=taken))

    assert said(log("a", "b", "c"), log("b", "c"), log("c", text=taken)) == [
        "steps.2.input.text.from: the step 'b' does not come before this one on every way; use a "
        "$template that asks"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{{ steps.b.output }}", "the step 'b' does not come before this one"),
        ("{{ steps.x.output }}", "the step 'x' does not come before this one"),
        ("{{ stpes }}", "there is no 'stpes'; a template can read steps, input, occurrence, and"),
        ("{{ 1 | nothing }}", "there is no filter 'nothing'; take another"),
        ("{{ 1 is nothing }}", "there is no test 'nothing'; take another"),
        ("a\n{% if %}", "line 2: Expected an expression, got 'end of statement block'; mend"),
        ("{% include 'x' %}", "line 1: there are no other templates; write it out here"),
        ("{{ " + "(" * 9000, "it is nested too deep; simplify it"),
        ("{{ " + "9" * 9000 + " }}", "Exceeds the limit"),
        ("x" * 40_000, "it is longer than 32,768 characters; shorten it"),
    ],
)
def test_a_template_that_cannot_be_is_refused_when_it_is_saved(text, line):
    [found] = said(log("a", "b", text=template(text)), log("b"))
    assert found.startswith(f"steps.0.input.text.template: {line}")


@pytest.mark.parametrize(
    "text",
    [
        "{% for one in steps.a.output.ids %}{{ loop.index }}: {{ one }}{% endfor %}",
        "{% set total = 3 %}{{ total }} {{ range(3) | list }} {{ input.a | tojson }}",
        "{{ occurrence.time }}",
        "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('a') }}",
    ],
)
def test_a_template_with_names_of_its_own_passes(text):
    checked(log("a", "b"), log("b", text=template(text)))


def test_what_a_template_would_cost_is_not_paid_when_it_is_saved():
    began = time.perf_counter()
    checked(log("a", text=template("{{ 'a' * 10 ** 12 }}{{ 9 ** 9 ** 9 ** 9 }}")))
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("fetch.output", "'fetch.output' begins with none of steps, input, occurrence"),
        ("steps.a", "'steps.a' is no path to an output; write steps.NAME.output"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path, line):
    assert said(log("a", "b"), log("b", text={"$from": path})) == [
        f"steps.1.input.text.from: {line}"
    ]


# -- rules


@pytest.mark.parametrize(
    ("comparison", "value", "line"),
    [
        ("greater", True, "True has no order; give a number or a text"),
        ("less", None, "None has no order; give a number or a text"),
        ("matches", 7, "7 is no pattern; give a text"),
        ("matches", "(?=a)", "'(?=a)' is no pattern of RE2"),
    ],
)
def test_a_rule_that_can_never_be_decided_is_refused(comparison, value, line):
    rule = {"when": [{"path": "a", "is": comparison, "value": value}], "step": "b"}
    [found] = said(log("a", rule), log("b"))
    assert found.startswith(f"steps.0.next.0.when.0.value: {line}")


@pytest.mark.parametrize(
    ("kind", "part", "value"),
    [
        ("slack", "block", {"block": "slack-webhook/globex--ops", "text": "Hello"}),
        ("workflow", "service", {"service": "globex--main", "workflow_id": "wf"}),
    ],
)
def test_a_block_of_another_tenants_may_not_be_named(kind, part, value):
    one = {"name": "one", "kind": kind, "input": value}
    made = {"name": "one", "template": "made"}

    for step, templates in ((one, {}), (made, {"made": {"kind": kind, "input": value}})):
        [line] = said(step, templates=templates)
        assert line.startswith(f"steps.0.input.{part}: {value[part]!r} is a block of another")
    own = {part: value[part].replace("globex", "acme")}
    assert checked({**one, "input": {**value, **own}}).first == "one"
