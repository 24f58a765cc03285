"""What a roster file may say, and what is said of one that is not as it must be."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.desired import Rules
from deployments.duties import Duty
from deployments.entry import Entry, InputEntry
from deployments.roster_file import OWN, BadRoster, check, dump, parse, parse_documents
from deployments.yaml_text import LARGEST, MOST_NODES, read, write
from store.models import SPEC_COLUMNS, Definition, Tenant

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

RULES = Rules(
    instance="i",
    duties={
        "greet": Duty(
            "greet", "greet", None, {"type": "object", "properties": {"name": {"type": "string"}}}
        )
    },
)


def errors_of(text: str) -> list[str]:
    return parse(text.encode()).errors


def one_definition(lines: str) -> str:
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    return f"tenant: acme\ndefinitions:\n  - name: a\n    duty: greet\n{body}"


# -- the model and the tables


def test_a_file_speaks_of_the_columns_that_belong_to_the_user():
    assert list(Entry.model_fields) == ["name", *sorted(SPEC_COLUMNS, key=SPEC_COLUMNS.index)]


def test_what_a_file_leaves_out_is_what_the_table_would_have():
    row = Definition(tenant="acme", name="a", duty="greet")
    assert Entry(name="a", duty="greet").values == {
        column: getattr(row, column) for column in SPEC_COLUMNS
    }


def test_every_key_says_what_it_takes():
    fields = [*Entry.model_fields.values(), *InputEntry.model_fields.values()]
    assert all(one.description for one in fields)


def test_status_columns_are_known_by_name():
    assert {"problem", "next_run_at", "run_count", "revision", "id"} <= OWN


# -- the form


def test_the_example_is_read():
    path = Path(__file__).parents[2] / "examples" / "roster.yaml"
    parsed = parse(path.read_bytes())
    assert parsed.errors == []
    assert list(parsed.rosters) == ["acme"]


@pytest.mark.parametrize(
    "text",
    [
        "tenant: a\n---\ntenant: b\n",
        "- tenant: a\n- tenant: b\n",
        '[{"tenant": "a"}, {"tenant": "b"}]',
        "tenant: a\n---\n---\n- tenant: b\n",
    ],
)
def test_documents_and_lists_say_the_same(text: str):
    parsed = parse(text.encode())
    assert (list(parsed.rosters), parsed.errors) == (["a", "b"], [])


def test_a_tenant_may_stand_in_several_documents():
    text = "tenant: a\ndefinitions: [{name: x, duty: d}]\n---\n"
    parsed = parse((text + text.replace("x", "y")).encode())
    assert list(parsed.rosters["a"].entries) == ["x", "y"]


def test_scalars_are_what_they_look_like():
    text = one_definition("title: no\nparameters: {at: 12:30, day: 2026-01-01, n: 010, x: 1e3}")
    entry = parse(text.encode()).rosters["acme"].entries["a"]
    assert entry.title == "no"
    assert entry.parameters == {"at": "12:30", "day": "2026-01-01", "n": 10, "x": 1000.0}


def test_anchors_and_merge_keys_work():
    text = (
        "tenant: acme\ndefinitions:\n  - &first {name: a, duty: greet, retries: 2}\n"
        "  - {<<: *first, name: b}\n"
    )
    parsed = parse(text.encode())
    assert parsed.errors == []
    assert parsed.rosters["acme"].entries["b"].retries == 2


# -- what is refused


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("corn: x", "acme/a: corn: there is no such key; did you mean 'cron'?"),
        (
            "last_status: ok",
            "acme/a: last_status: this column is Rota's own, which says what has happened; "
            "remove it",
        ),
        (
            "tenant: b",
            "acme/a: tenant: the tenant stands above `definitions:`, once for all; remove it here",
        ),
        ("title: 12", "acme/a: title: 12 does not fit; give a text of at most 255 characters"),
        ("enabled: yes", "acme/a: enabled: 'yes' does not fit; give true or false"),
        ("retries: 101", "acme/a: retries: 101 does not fit; give a whole number from 0 to 100"),
        ("retries: true", "acme/a: retries: True does not fit; give a whole number from 0 to 100"),
        (
            "run_at: 2026-01-01 08:00",
            "acme/a: run_at: '2026-01-01 08:00' has no time zone; give a date and time with its "
            "offset from UTC, such as 2026-03-01T08:00:00+01:00",
        ),
        (
            "run_at: soon",
            "acme/a: run_at: 'soon' is no date and time; give a date and time with its "
            "offset from UTC, such as 2026-03-01T08:00:00+01:00",
        ),
        (
            "after_seconds: 1.5",
            "acme/a: after_seconds: 1.5 does not fit; give a whole number of seconds from 1 on: "
            "once, so long after the previous run",
        ),
        (
            "overlap: maybe",
            "acme/a: overlap: 'maybe' does not fit; give allow, skip or queue",
        ),
        (
            "timezone: null",
            "acme/a: timezone: None does not fit; give the name of a time zone, such as "
            "Europe/Berlin",
        ),
        (
            "parameters: {1: 2}",
            "acme/a: parameters: it cannot be stored: the key 1 is no text; put it in quotes",
        ),
        (
            "parameters: {x: .nan}",
            "acme/a: parameters: it cannot be stored: nan is no number in JSON; leave it out",
        ),
        (
            "parameters: {x: 9223372036854775808}",
            "acme/a: parameters: it cannot be stored: a number in it has more than 64 bits; write "
            "it as text, in quotes",
        ),
        (
            'parameters: {x: "\\0"}',
            "acme/a: parameters: it cannot be stored: it holds a NUL character; leave that out",
        ),
        ("5: x", "acme/a: 5: the key 5 is no text; there is no such key, remove it"),
        (
            "inputs: [{name: a, 5: x}]",
            "acme/a: inputs.0.5: the key 5 is no text; there is no such key, remove it",
        ),
        (
            "inputs: {a: 1}",
            "acme/a: inputs: {'a': 1} does not fit; give what whoever starts a run may say, a list "
            "of at most 100 inputs",
        ),
        (
            "inputs: [branch]",
            "acme/a: inputs.0: 'branch' does not fit; give what whoever starts a run may say, a "
            "list of at most 100 inputs",
        ),
        (
            "inputs: [{name: a b}]",
            "acme/a: inputs.0.name: 'a b' does not fit; give letters, digits, _, . and -, a letter "
            "or _ first, at most 128",
        ),
        (
            "inputs: [{name: a, required: 1}]",
            "acme/a: inputs.0.required: 1 does not fit; give true or false",
        ),
        (
            "inputs: [{default: a}]",
            "acme/a: inputs.0.name: it is missing; give letters, digits, _, "
            ". and -, a letter or _ first, at most 128",
        ),
        (
            "inputs: [{name: a, reqiured: true}]",
            "acme/a: inputs.0.reqiured: there is no such key; did you mean 'required'?",
        ),
        (
            "inputs: [{name: a, tenant: b}]",
            "acme/a: inputs.0.tenant: there is no such key; there are name, required, description, "
            "default, options, regex",
        ),
        (
            'inputs: [{name: a, default: "\\0"}]',
            "acme/a: inputs.0.default: it cannot be stored: it holds a NUL character; leave that "
            "out",
        ),
        (
            "inputs: [{name: a, default: b, regex: ^c}]",
            "acme/a: inputs.a.default: 'b' does not match ^c; give a value that does",
        ),
        ("inputs: [{name: a}, {name: a}]", "acme/a: inputs.a: it is declared twice; remove one"),
        (
            "revision: 3",
            "acme/a: revision: this column is Rota's own, which says what has happened; remove it",
        ),
        (
            "starts_at: 2026-01-02T00:00Z\nends_at: 2026-01-01T00:00Z",
            "acme/a: ends_at: it is not later than starts_at; give a later one",
        ),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(lines: str, expected: str):
    assert errors_of(one_definition(lines)) == [expected]


def test_very_many_unknown_keys_are_one_error():
    lines = "".join(f"    f{number}: 0\n" for number in range(1000))
    (error,) = errors_of(f"tenant: acme\ndefinitions:\n  - name: a\n    duty: d\n{lines}")
    assert error.startswith("acme/a: it has 1002 fields; there are name, title"), error


def test_everything_that_is_wrong_is_said_at_once():
    text = (
        "tenant: acme\ntitel: x\ndefinitions:\n"
        "  - {name: a}\n  - 5\n  - {name: B, duty: d}\n  - {name: c, duty: d}\n"
        "  - {name: c, duty: d}\n---\ntenant: Acme\n---\nnothing\n"
    )
    assert errors_of(text) == [
        "document 1: titel: there is no such key; did you mean 'title'?",
        "acme/a: duty: it is missing; give the name of a duty, such as workflow_run",
        "acme, no. 2: it has no keys; begin with `name:` and `duty:`",
        "acme/B: name: 'B' does not fit; give lower-case letters, digits and single dashes, at "
        "most 63",
        "acme/c: name: it stands twice in this tenant; rename or remove one",
        "document 2: tenant: 'Acme' does not fit; give lower-case letters, digits and single "
        "dashes, at most 63",
        "document 3: it has no keys; begin with `tenant:` and `definitions:`",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"tenant: a\ntenant: b\n", "line 2: the key 'tenant' stands twice; keep one"),
        (b'{"tenant": "a", "tenant": "b"}', "the key 'tenant' stands twice in one object"),
        (b"x:\n  cron: * * * * *\n", "line 2: put '* * * * *' in quotes, for YAML reads * as"),
        (b"cron: @daily\n", "line 1: put '@daily' in quotes, for YAML reads @ as a sign"),
        (b"a: &a [*a]\n", "line 1: an anchor holds itself"),
        (b"\xff", "byte 0 is not UTF-8; save it as UTF-8"),
        (
            b"x: !!python/object:os.system y\n",
            "line 1: put '!!python/object:os.system y' in quotes",
        ),
        (b"[" * 100_000, "it is nested too deep"),
        (b"- " * 50_000, "it is nested too deep"),
        (b"? " * 50_000, "it is nested too deep"),
        (b"x: " + b"9" * 5000, "Exceeds the limit"),
        (b"x: !!bool foo", "a tag such as !!int stands before a value that it does not fit"),
        (b"x: !!float ''", "a tag such as !!int stands before a value that it does not fit"),
        (b"x: !!timestamp foo", "a tag such as !!int stands before a value that it does not fit"),
        (b"x: !!float " + b":".join([b"1"] * 400), "a tag such as !!int stands before a value"),
        (b" " * (LARGEST + 1), "it is larger than 5 MiB; split it"),
    ],
)
def test_text_that_cannot_be_read_is_refused(text: bytes, expected: str):
    with pytest.raises(BadRoster) as refused:
        parse(text)
    assert expected in str(refused.value)


def test_aliases_may_not_multiply_without_end():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert MOST_NODES < 10**9
    with pytest.raises(BadRoster, match="its aliases stand for too many values"):
        parse("\n".join(lines).encode())


def test_an_empty_file_is_no_roster():
    assert errors_of("\n") == ["the file is empty; begin with `tenant:` and `definitions:`"]


# -- whose definitions they are

SEMAPHORE = """
apiVersion: v1.0
kind: Schedule
metadata: {name: P1}
spec: {project: p, branch: main, at: 0 0 * * *, pipeline_file: .semaphore/cron.yml}
"""


def test_documents_without_a_tenant_belong_to_the_given_one():
    text = "definitions: [{name: a, duty: d}]\n---\ntenant: acme\ndefinitions: [{name: b, duty: d}]"
    parsed = parse(text.encode(), "acme")
    assert parsed.errors == []
    assert {slug: list(one.entries) for slug, one in parsed.rosters.items()} == {"acme": ["a", "b"]}


def test_a_document_of_another_tenant_than_the_given_one_is_refused():
    parsed = parse(b"tenant: globex\ndefinitions: [{name: a, duty: d}]", "acme")
    assert parsed.rosters == {}
    assert parsed.errors == [
        "document 1: tenant: 'globex' is another than 'acme', whose definitions these are to be; "
        "remove the document, or write to that tenant"
    ]


def test_a_given_tenant_must_be_one_too():
    assert parse(b"definitions: []", "Acme").errors == [
        "document 1: tenant: 'Acme' does not fit; give lower-case letters, digits and single "
        "dashes, at most 63"
    ]


def test_nothing_of_a_given_tenant_is_nothing_and_not_empty():
    parsed = parse(b"definitions: []", "acme")
    assert (list(parsed.rosters), parsed.errors) == (["acme"], [])
    assert parse(b"", "acme").errors == ["the file is empty; begin with `definitions:`"]
    assert parse(b"5", "acme").errors == ["document 1: it has no keys; begin with `definitions:`"]


def test_documents_may_be_read_already():
    document = {"definitions": [{"name": "a", "duty": "d"}, {"name": "B", "duty": "d"}]}
    parsed = parse_documents([document], "acme")
    assert list(parsed.rosters["acme"].entries) == ["a"]
    assert parsed.errors == [
        "acme/B: name: 'B' does not fit; give lower-case letters, digits and single dashes, at "
        "most 63"
    ]
    assert parse_documents([[document]], "acme").errors == [
        "document 1: it has no keys; begin with `definitions:`"
    ]


def test_tasks_of_semaphores_stand_beside_definitions_of_rotas():
    parsed = parse(f"definitions: [{{name: a, duty: d}}]\n---{SEMAPHORE}".encode(), "acme")
    assert parsed.errors == []
    entries = parsed.rosters["acme"].entries
    assert list(entries) == ["a", "p1"]
    assert (entries["p1"].title, entries["p1"].cron, entries["p1"].day_and) == (
        "P1",
        "0 0 * * *",
        True,
    )


def test_tasks_of_semaphores_need_a_tenant():
    assert errors_of(SEMAPHORE) == [
        "document 1: kind: 'Schedule' is Semaphore's, which names no tenant; say whose it is with "
        "`rota load --tenant`"
    ]


def test_tasks_of_semaphores_that_are_wrong_are_told_apart():
    text = f"{SEMAPHORE}---{SEMAPHORE.replace('P1', 'p 1')}---{SEMAPHORE.replace('P1', 'p-1')}"
    text += f"---{SEMAPHORE.replace('* * *', '* *').replace('branch: main, ', '')}"
    text += f"---{SEMAPHORE.replace('* * *', '* *').replace('P1', 'P2')}"
    assert parse(text.encode(), "acme").errors == [
        "acme/p-1: name: it stands twice in this tenant; rename or remove one",
        "document 4: spec.branch: it is missing; give the name of a branch",
        "document 5: spec.at: '0 0 * *' has 4 fields; write all five; Semaphore reads it as "
        "'0 0 * * *'",
    ]


# -- what the definitions themselves must be


def test_definitions_are_judged_as_the_reconciler_would():
    parsed = parse(
        b"tenant: acme\ndefinitions:\n  - {name: a, duty: gret}\n"
        b"  - {name: b, duty: greet, cron: '0 0 30 2 *'}\n"
        b"  - {name: c, duty: greet, parameters: {name: 1}}\n"
        b"  - {name: d, duty: greet, run_at: 2026-02-01T00:00:00Z}\n"
        b"  - {name: e, duty: greet, timezone: europe/berlin}\n"
        b"  - {name: f, duty: greet}\n"
        b"  - {name: g, duty: greet, after_seconds: 0}\n"
        b"  - {name: h, duty: greet, after_seconds: 1}\n"
    )
    errors = check(parsed.rosters.values(), RULES, NOW, {})
    assert [one.split(": ")[:2] for one in errors] == [
        ["acme/a", "duty"],
        ["acme/b", "cron"],
        ["acme/c", "parameters.name"],
        ["acme/d", "run_at"],
        ["acme/e", "timezone"],
        ["acme/g", "after_seconds"],
    ]


def test_a_date_that_has_passed_since_is_no_error_in_a_row_that_stays():
    text = one_definition("run_at: 2026-02-01T00:00:00Z").encode()
    roster = parse(text).rosters["acme"]
    row = Definition(
        tenant="acme",
        name="a",
        created_at=NOW - timedelta(days=60),
        **roster.entries["a"].values,
    )
    assert check([roster], RULES, NOW, {"acme/a": row}) == []
    assert check([roster], replace(RULES, duties={}), NOW, {}) != []


# -- there and back

plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | plain_text
    | st.sampled_from(
        ["no", "12:30", "0o17", "1e3", "089", "<<", "~", "=", "2026-01-01", "#", "-"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_whatever_json_can_say_is_written_and_read_back(value: Any):
    again = read(write([{"x": value}]).encode())
    assert again == [{"x": value}]
    assert repr(again) == repr([{"x": value}])


def test_a_dump_is_taken_back_as_it_was():
    tenants = [Tenant(slug="acme", title="Acme: #1"), Tenant(slug="empty")]
    full: dict[str, Any] = {
        "title": "no",
        "description": "two\nlines\n",
        "parameters": {"a": [1, 1.5, None, True, "x"], "b": {}},
        "inputs": [
            {"name": "branch", "required": True, "default": "no", "regex": r"^[a-z]+\d*$"},
            {"name": "size", "description": "two\nlines", "options": ["1", "true"]},
        ],
        "cron": "* * * * *",
        "timezone": "Europe/Berlin",
        "day_and": True,
        "starts_at": datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC),
        "ends_at": datetime(2027, 1, 1, tzinfo=UTC),
        "enabled": False,
        "retries": 3,
        "retry_delay_seconds": 4,
        "timeout_seconds": 0.5,
        "tags": ["a", "12"],
        "keep_runs": 7,
        "pause_after_failures": 3,
        "notify": ["slack-webhook/ops"],
        "notify_on": ["success"],
        "notify_after": 2,
    }
    rows = [
        Definition(id=uuid4(), tenant="acme", name="plain", duty="greet"),
        Definition(id=uuid4(), tenant="acme", name="full", duty="greet", **full),
        Definition(id=uuid4(), tenant="acme", name="after", duty="greet", after_seconds=90),
    ]
    text = dump(tenants, rows)
    parsed = parse(text.encode())
    assert parsed.errors == []
    assert {slug: one.title for slug, one in parsed.rosters.items()} == {
        "acme": "Acme: #1",
        "empty": None,
    }
    assert parsed.rosters["acme"].entries["plain"].values == Entry(name="x", duty="greet").values
    assert parsed.rosters["acme"].entries["full"].values == {
        **Entry(name="x", duty="greet").values,
        **full,
    }
    assert parsed.rosters["acme"].entries["after"].after_seconds == 90
    assert "  - name: plain\n    duty: greet\n  - name" in text
