"""What becomes of Semaphore's periodic tasks, and which of them are refused."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.desired import Rules, want
from deployments.duties import discover
from deployments.entry import Entry
from deployments.roster_file import parse
from deployments.schedule import Cron
from deployments.semaphore import TAKEN, VERSIONS, BadSchedule, entry, is_its
from deployments.semaphore_cron import translated
from flows.workflow_run import workflow_run
from store.models import Definition

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

EXAMPLE = """
apiVersion: v1.0
kind: Schedule
metadata:
  name: P1
spec:
  project: Project 1
  branch: master
  at: 0 0 * * * *
  pipeline_file: .semaphore/cron.yml
"""

FULL = """
apiVersion: v1.1
kind: Schedule
metadata:
  name: Nightly build
  id: 7e7c5a1e-2f11-4b1c-9b1a-111111111111
  description: Builds what was merged.
spec:
  project: web
  recurring: true
  branch: main
  at: 30 2 * * MON-FRI
  pipeline_file: .semaphore/nightly.yml
  paused: true
  parameters:
    - name: TARGET
      required: true
      description: What to build
      default_value: all
      options: [all, api]
    - name: VERSION
      required: false
      default_value: v1
      regex_pattern: ^v[0-9]+$
      validate_input_format: true
    - name: NOTE
      required: false
      regex_pattern: (?=unused)
      validate_input_format: false
"""

TAG = """
apiVersion: v1.2
kind: Schedule
metadata: {name: release}
spec:
  project: web
  recurring: false
  reference: {type: TAG, name: v1.2.3}
  pipeline_file: .semaphore/release.yml
"""

ALL = {"v1.0": EXAMPLE, "v1.1": FULL, "v1.2": TAG}


def document(version: str = "v1.0", /, **spec: Any) -> dict[str, Any]:
    """The document of a version, with other keys in its spec; None leaves one out."""
    found: dict[str, Any] = yaml.safe_load(ALL[version])
    merged = found["spec"] | spec
    found["spec"] = {key: value for key, value in merged.items() if value is not None}
    return found


def named(name: Any, **more: Any) -> dict[str, Any]:
    return document() | {"metadata": {"name": name, **more}}


def errors(one: dict[str, Any]) -> list[str]:
    with pytest.raises(BadSchedule) as refused:
        entry(one)
    assert str(refused.value) == "\n".join(refused.value.errors)
    return refused.value.errors


# -- what becomes of it


def test_the_example_of_the_first_version_is_a_definition():
    assert entry(yaml.safe_load(EXAMPLE)) == {
        "name": "p1",
        "title": "P1",
        "duty": "workflow_run",
        "parameters": {
            "workflow_id": "Project 1",
            "input": {
                "project": "Project 1",
                "reference": "master",
                "reference_type": "BRANCH",
                "pipeline_file": ".semaphore/cron.yml",
            },
        },
        "inputs": [],
        "cron": "0 0 * * *",
        "timezone": "UTC",
        "day_and": True,
    }


def test_everything_that_the_second_version_can_say_is_kept_but_the_id():
    assert entry(yaml.safe_load(FULL)) == {
        "name": "nightly-build",
        "title": "Nightly build",
        "description": "Builds what was merged.",
        "duty": "workflow_run",
        "parameters": {
            "workflow_id": "web",
            "input": {
                "project": "web",
                "reference": "main",
                "reference_type": "BRANCH",
                "pipeline_file": ".semaphore/nightly.yml",
            },
        },
        "inputs": [
            {
                "name": "TARGET",
                "required": True,
                "description": "What to build",
                "default": "all",
                "options": ["all", "api"],
            },
            {"name": "VERSION", "default": "v1", "regex": "^v[0-9]+$"},
            {"name": "NOTE"},
        ],
        "enabled": False,
        "cron": "30 2 * * MON-FRI",
        "timezone": "UTC",
        "day_and": True,
    }


def test_the_example_of_the_documentation_is_true():
    page = Path(__file__).parents[2] / "docs" / "semaphore.md"
    theirs, ours = re.findall("^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)

    assert parse(theirs.encode(), "acme").errors == []
    assert parse(theirs.encode(), "acme") == parse(ours.encode())


def test_a_reference_of_the_third_version_says_its_kind():
    assert entry(yaml.safe_load(TAG)) == {
        "name": "release",
        "duty": "workflow_run",
        "parameters": {
            "workflow_id": "web",
            "input": {
                "project": "web",
                "reference": "v1.2.3",
                "reference_type": "TAG",
                "pipeline_file": ".semaphore/release.yml",
            },
        },
        "inputs": [],
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_what_comes_of_it_can_be_carried_out(version: str):
    duties, broken = discover()
    made = Entry.model_validate(entry(document(version)))
    row = Definition(tenant="acme", name=made.name, created_at=NOW, updated_at=NOW, **made.values)

    wanted = want(row, Rules("i", duties, broken), NOW)

    assert wanted.spec.flow_name == workflow_run.name
    assert wanted.spec.parameters["workflow_id"] in ("web", "Project 1")
    if version == "v1.1":
        assert wanted.spec.parameters["input"]["VERSION"] == "v1"
        assert "NOTE" not in wanted.spec.parameters["input"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("refs/heads/feature/x", ("feature/x", "BRANCH")),
        ("refs/tags/v1", ("v1", "TAG")),
        ("refs/pull/12/head", ("12", "PR")),
        ("refs/pull/12/merge", ("refs/pull/12/merge", "BRANCH")),
        ("feature/x", ("feature/x", "BRANCH")),
    ],
)
def test_a_full_git_reference_says_its_kind_itself(written: str, expected: tuple[str, str]):
    told = entry(document(branch=written))["parameters"]["input"]
    assert (told["reference"], told["reference_type"]) == expected


def test_what_does_not_recur_has_no_cron_whatever_is_in_at():
    made = entry(document("v1.1", recurring=False, at="nonsense"))
    assert made.keys() & {"cron", "day_and", "timezone"} == set()
    assert made["enabled"] is False


def test_a_run_is_asked_for_what_the_file_leaves_out():
    one = document("v1.1", branch=None, pipeline_file=None, parameters=None)
    assert entry(one)["inputs"] == [
        {"name": "reference", "required": True},
        {"name": "pipeline_file", "required": True},
    ]
    assert entry(one)["parameters"]["input"] == {"project": "web"}


def test_a_blank_default_is_none():
    parameters = [{"name": "A", "required": True, "default_value": "", "description": ""}]
    assert entry(document("v1.1", parameters=parameters))["inputs"] == [
        {"name": "A", "required": True}
    ]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("nightly-build", "nightly-build"),
        ("Nightly  Build!", "nightly-build"),
        ("Überprüfung der Straße", "uberprufung-der-strasse"),
        ("--a__b--", "a-b"),
        ("Bob's 2nd", "bob-s-2nd"),
        ("№ 5", "no-5"),
        ("x" * 63, "x" * 63),
    ],
)
def test_a_name_becomes_a_slug_and_stays_as_the_title(name: str, slug: str):
    made = entry(named(name))
    assert made["name"] == slug
    assert made.get("title") == (None if name == slug else name)


# -- what is refused


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("key", ["apiVersion", "kind", "metadata", "spec"])
def test_the_head_is_whole(version: str, key: str):
    one = document(version)
    del one[key]
    [said] = errors(one)
    assert said.startswith(f"{key}: it is missing; give ")


@pytest.mark.parametrize(
    ("version", "needed"),
    [
        ("v1.0", ["project", "branch", "at", "pipeline_file"]),
        ("v1.1", ["project", "recurring"]),
        ("v1.2", ["project", "recurring", "reference"]),
    ],
)
def test_what_a_version_needs_is_asked_for(version: str, needed: list[str]):
    for key in document(version)["spec"]:
        one = document(version, **{key: None})
        if key in needed:
            [said] = errors(one)
            assert said.startswith(f"spec.{key}: it is missing; give ")
        elif key != "at":
            assert entry(one)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (
            document() | {"apiVersion": "v2.0"},
            "apiVersion: 'v2.0' does not fit; give v1.0, v1.1, v1.2",
        ),
        (document() | {"apiVersion": 1.0}, "apiVersion: 1.0 does not fit; give v1.0, v1.1, v1.2"),
        (document() | {"apiVersion": []}, "apiVersion: [] does not fit; give v1.0, v1.1, v1.2"),
        (document() | {"kind": "Pipeline"}, "kind: 'Pipeline' does not fit; give Schedule"),
        (document() | {"spec": None}, "spec: None does not fit; give an object of project, branch"),
        (document() | {5: 1}, "5: the key 5 is no text; there is no such key, remove it"),
        (document() | {"extra": 1}, "extra: there is no such key; there are apiVersion, kind, me"),
        (
            named("a", labels=[]),
            "metadata.labels: there is no such key; there are name, id, description",
        ),
        (named(""), "metadata.name: '' does not fit; give a text of at most 255 characters"),
        (named(5), "metadata.name: 5 does not fit; give a text of at most 255 characters"),
        (
            named("日本"),
            "metadata.name: '日本' has nothing to name it by; give 1 to 63 letters from a to z, "
            "digits and spaces",
        ),
        (named("x" * 64), "metadata.name: 'xxx"),
        (named("a", id=5), "metadata.id: 5 does not fit; give a text"),
        (
            named("a", description="\0"),
            "metadata.description: it cannot be stored: it holds a NUL character; leave that out",
        ),
        (
            document(recurring=True),
            "spec.recurring: v1.0 knows only what recurs; remove it, or give apiVersion v1.1",
        ),
        (
            document(parameters=[]),
            "spec.parameters: v1.0 knows none; remove them, or give apiVersion v1.1",
        ),
        (
            document(reference={}),
            "spec.reference: v1.0 has `branch`; give that, or apiVersion v1.2",
        ),
        (
            document("v1.1", reference={}),
            "spec.reference: v1.1 has `branch`; give that, or apiVersion v1.2",
        ),
        (
            document("v1.2", branch="main"),
            "spec.branch: v1.2 has `reference: {type: BRANCH, name: ...}`; give that",
        ),
        (
            document("v1.2", reference={"type": "COMMIT", "name": "x"}),
            "spec.reference.type: 'COMMIT' does not fit; give BRANCH, TAG or PR",
        ),
        (
            document("v1.2", reference={"type": "PR", "name": 5}),
            "spec.reference.name: 5 does not fit; give the name of a branch or tag, or the number",
        ),
        (document(branch=""), "spec.branch: '' does not fit; give the name of a branch"),
        (document(paused="no"), "spec.paused: 'no' does not fit; give true or false"),
        (document(at=5), "spec.at: 5 does not fit; give a cron expression in quotes, such as"),
        (document(brunch="x"), "spec.brunch: there is no such key; did you mean 'branch'?"),
        (
            document("v1.1", at=None),
            "spec.at: it is missing where recurring is true; give a cron expression in quotes, "
            "such as '0 3 * * *'",
        ),
        (document("v1.1", parameters={}), "spec.parameters: {} does not fit; give a list of par"),
    ],
)
def test_what_does_not_fit_is_named_with_its_remedy(one: dict[str, Any], expected: str):
    [said] = errors(one)
    assert said.startswith(expected)


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (
            {"required": True},
            "spec.parameters.0.name: it is missing; give letters, digits, _, . and -, a letter or "
            "_ first, at most 128",
        ),
        ({"name": "A"}, "spec.parameters.0.required: it is missing; give true or false"),
        (
            {"name": "A B", "required": True},
            "spec.parameters.0.name: 'A B' does not fit; give letters, digits, _, . and -, a "
            "letter or _ first, at most 128",
        ),
        (
            {"name": "A", "required": True, "default": "x"},
            "spec.parameters.0.default: there is no such key; did you mean 'default_value'?",
        ),
        (
            {"name": "A", "required": True, "default_value": 5},
            "spec.parameters.0.default_value: 5 does not fit; give a text of at most 4096 bytes",
        ),
        (
            {"name": "A", "required": True, "validate_input_format": True},
            "spec.parameters.A.regex_pattern: it is missing where validate_input_format is true; "
            "give a pattern, or false there",
        ),
        (
            {
                "name": "A",
                "required": True,
                "validate_input_format": True,
                "regex_pattern": "(?=x)",
            },
            "spec.parameters.A.regex_pattern: '(?=x)' is no pattern of RE2 (invalid perl operator: "
            "(?=); mend it, without backreferences and lookarounds, which RE2 has not",
        ),
        (
            {
                "name": "A",
                "required": True,
                "validate_input_format": True,
                "regex_pattern": "x" * 513,
            },
            "spec.parameters.A.regex_pattern: 'xxx",
        ),
        (
            {
                "name": "A",
                "required": True,
                "validate_input_format": True,
                "regex_pattern": "^x",
                "default_value": "y",
            },
            "spec.parameters.A.default_value: 'y' does not match ^x; give a value that does",
        ),
        (
            {"name": "A", "required": True, "options": ["x"], "default_value": "y"},
            "spec.parameters.A.default_value: 'y' is not among its options; give one of x",
        ),
        *(
            (
                {"name": name, "required": False},
                f"spec.parameters.{name}: the workflow is told another value by this name; rename "
                "it",
            )
            for name in TAKEN
        ),
    ],
)
def test_a_bad_parameter_is_named_with_its_remedy(parameter: dict[str, Any], expected: str):
    [said] = errors(document("v1.1", parameters=[parameter]))
    assert said.startswith(expected)


def test_everything_that_is_wrong_is_said_at_once():
    parameters = [
        {"name": "A", "required": True, "validate_input_format": True},
        {"name": "project", "required": True, "default_value": "x", "options": ["y"]},
    ]
    one = document("v1.1", at="* * *", parameters=parameters) | {"metadata": {"name": "?"}}
    assert [line.partition(":")[0] for line in errors(one)] == [
        "metadata.name",
        "spec.parameters.A.regex_pattern",
        "spec.parameters.project",
        "spec.parameters.project.default_value",
        "spec.at",
    ]


def test_a_parameter_that_stands_twice_is_refused_with_the_definition():
    one = document("v1.1", parameters=[{"name": "A", "required": True}] * 2)
    parsed = parse(yaml.safe_dump(one).encode(), "acme")
    assert parsed.errors == ["acme/nightly-build: inputs.A: it is declared twice; remove one"]


@pytest.mark.parametrize(
    ("keys", "its"),
    [
        ({"kind": "Schedule"}, True),
        ({"apiVersion": "v1.0"}, True),
        ({"tenant": "acme", "definitions": []}, False),
        ({}, False),
    ],
)
def test_its_documents_are_known_by_their_head(keys: dict[str, Any], its: bool):
    assert is_its(keys) is its


# -- cron


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("0 3 * * *", "0 3 * * *"),
        (" 0  3 * * * ", "0 3 * * *"),
        ("0 0 * * * *", "0 0 * * *"),
        ("@daily", "@daily"),
        ("@minutely", "* * * * *"),
        ("*/15 8-18/2 1,15 JAN-MAR MON,FRI", "*/15 8-18/2 1,15 JAN-MAR MON,FRI"),
        ("0 0 */10 * *", "0 0 10,20,30 * *"),
        ("0 0 2,*/15 * *", "0 0 2,15,30 * *"),
        ("0 0 1 */3 *", "0 0 1 3,6,9,12 *"),
        ("0 0 * * */2", "0 0 * * 2,4,6"),
        ("0 0 */1 */1 */1", "0 0 * * *"),
        ("0 0 L * *", "0 0 L * *"),
        ("0 0 1 L *", "0 0 1 12 *"),
        ("0 0 * * L", "0 0 * * 7"),
        ("0 0 * * 5L", "0 0 * * L5"),
        ("0 0 * * 1L,5L", "0 0 * * L1,L5"),
        ("0 0 * * 1-5/2", "0 0 * * 1-5/2"),
        ("0 0 13 * FRI#2", "0 0 13 * FRI#2"),
    ],
)
def test_a_cron_means_the_same_in_other_words(at: str, expected: str):
    assert translated(at) == expected
    assert entry(document(at=at))["cron"] == expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (
            "0 0 1 1 * 2030",
            "spec.at: '0 0 1 1 * 2030' has '2030' as its sixth field, the year, and no year counts "
            "here; leave it out, or write a definition of Rota's with starts_at and ends_at",
        ),
        ("0 0 1 1 * */1", "spec.at: '0 0 1 1 * */1' has '*/1' as its sixth field, the year, and"),
        ("0 0 1 1 * * *", "spec.at: '0 0 1 1 * * *' has 7 fields; write five: minute, hour, day"),
        (
            "* * *",
            "spec.at: '* * *' has 3 fields; write all five; Semaphore reads it as '* * * * *'",
        ),
        ("0", "spec.at: '0' has 1 field; write all five; Semaphore reads it as '0 * * * *'"),
        ("  ", "spec.at: '  ' is empty; write five fields"),
        ("60 * * * *", "spec.at: '60 * * * *' has 60 as its minute; minutes go from 0 to 59"),
        ("x * * * *", "spec.at: 'x * * * *' has 'x' as its minute; minutes go from 0 to 59: write"),
        ("*/0 * * * *", "spec.at: '*/0 * * * *' has '*/0' as its minute; a step is at least 1"),
        ("0 0 */0 * *", "spec.at: '0 0 */0 * *' has '*/0' as its day of month; a step is at leas"),
        ("0 0 */32 * *", "spec.at: '0 0 */32 * *' has '*/32', which nothing is; a step is at mos"),
        (
            "0 0 1,*/15 * *",
            "spec.at: '0 0 1,*/15 * *' has '1,15,30' as its day of month, and Prefe",
        ),
        ("0 0 30 2 *", "spec.at: '0 0 30 2 *' has 30 as its day of month, a date that never com"),
        ("0 0 15W * *", "spec.at: '0 0 15W * *' has '15w' as its day of month; days of the month"),
        ("0 0 LW * *", "spec.at: '0 0 LW * *' has 'lw' as its day of month; days of the month go"),
        ("@reboot", "spec.at: '@reboot' names no time; write five fields"),
        ("@secondly", "spec.at: '@secondly' is not a known shorthand; write five fields"),
        (
            "0 0 * * 0-6/2",
            "spec.at: '0 0 * * 0-6/2' has '0-6/2' as its day of week, of which Semaphore leaves "
            "days out; write the days as a list, such as 2,4,6",
        ),
        ("0 0 * * SUN-SAT/2", "spec.at: '0 0 * * SUN-SAT/2' has 'SUN-SAT/2' as its day of week"),
    ],
)
def test_a_cron_that_cannot_be_followed_is_refused(at: str, expected: str):
    [said] = errors(document(at=at))
    assert said.startswith(expected)


def test_both_days_must_match():
    made = entry(document(at="0 0 13 * FRI"))
    when = Cron(made["cron"], made["timezone"], made["day_and"])
    assert when.next_after(NOW) == datetime(2026, 3, 13, tzinfo=UTC)
    assert when.next_after(datetime(2026, 3, 13, tzinfo=UTC)) == datetime(2026, 11, 13, tzinfo=UTC)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("field", ["day", "month", "weekday"])
def test_a_star_with_a_step_is_what_the_step_divides(step: int, field: str):
    fields = {"day": "*", "month": "*", "weekday": "*"} | {field: f"*/{step}"}
    when = Cron(translated(f"0 0 {' '.join(fields.values())}"), day_and=True)

    def comes(day: date) -> bool:
        numbers = {"day": day.day, "month": day.month, "weekday": day.isoweekday()}
        return numbers[field] % step == 0

    first = datetime(2027, 1, 1, tzinfo=UTC)
    expected = [at for days in range(1, 800) if comes((at := first + timedelta(days=days)).date())]
    assert when.occurrences(first, len(expected)) == expected
