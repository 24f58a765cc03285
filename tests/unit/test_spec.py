"""The canonical form: when two of them are the same, and what a run gets to know."""

from dataclasses import fields, replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from deployments.schedule import Cron, Interval
from deployments.spec import (
    DeploymentSpec,
    Difference,
    Key,
    differences,
    environment,
    labels,
    owner_tag,
    schedule_of,
)
from flows.occurrence import DEFINITION_LABEL, REFERENCE_LABEL

SPEC = DeploymentSpec(
    definition_id="0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60",
    flow_name="daily-report",
    name="acme.nightly-report",
    description="Write a report.",
    entrypoint="deployments.bound.report",
    parameters={"recipient": "ops", "options": {"pages": [1, 2]}},
    parameter_schema={"type": "object", "properties": {"recipient": {"type": "string"}}},
    schedules=(schedule_of(Cron("0 3 * * *").to_prefect()),),
    paused=False,
    overlap=None,
    tags=("rota:i1", "daily"),
    work_pool="rota",
    work_queue="acme",
    job_variables={"env": {"ROTA_RETRIES": "0"}},
)

OTHERWISE = {
    "definition_id": "another",
    "flow_name": "weekly-report",
    "name": "acme.weekly-report",
    "description": "Write another report.",
    "entrypoint": "deployments.bound.weekly_report",
    "parameters": {"recipient": "ops", "options": {"pages": [1, 2, 3]}},
    "parameter_schema": {"type": "object", "properties": {}},
    "schedules": (schedule_of(Cron("0 4 * * *").to_prefect()),),
    "paused": True,
    "overlap": "ENQUEUE",
    "tags": ("daily", "rota:i1"),
    "work_pool": None,
    "work_queue": "globex",
    "job_variables": {"env": {"ROTA_RETRIES": "1"}},
}


class TestFingerprint:
    def test_is_sixteen_digits_that_stay_the_same(self):
        """A fixed one: should it change, every deployment gets a new version at an upgrade."""
        assert SPEC.fingerprint == "d0f05d7fe67f7232"
        assert replace(SPEC).fingerprint == SPEC.fingerprint

    def test_covers_every_field_but_two(self):
        assert OTHERWISE.keys() == {field.name for field in fields(DeploymentSpec)}
        kept = [
            field
            for field, value in OTHERWISE.items()
            if replace(SPEC, **{field: value}).fingerprint == SPEC.fingerprint
        ]
        assert kept == ["description", "paused"]

    def test_does_not_depend_on_the_order_of_keys(self):
        turned = replace(SPEC, parameters={"options": {"pages": [1, 2]}, "recipient": "ops"})

        assert turned.fingerprint == SPEC.fingerprint

    def test_depends_on_the_order_of_lists(self):
        turned = replace(SPEC, parameters={"recipient": "ops", "options": {"pages": [2, 1]}})

        assert turned.fingerprint != SPEC.fingerprint


class TestDifferences:
    def test_none(self):
        assert differences(SPEC, replace(SPEC)) == ()

    @pytest.mark.parametrize(("field", "value"), OTHERWISE.items(), ids=OTHERWISE)
    def test_one_of_each_field(self, field, value):
        expected = (Difference(field, getattr(SPEC, field), value),)

        assert differences(SPEC, replace(SPEC, **{field: value})) == expected

    def test_several_in_the_order_of_the_fields(self):
        found = differences(SPEC, replace(SPEC, **OTHERWISE))

        assert [one.field for one in found] == [field.name for field in fields(DeploymentSpec)]

    def test_a_second_schedule_is_one(self):
        extra = {
            **schedule_of(Interval(60, datetime(2026, 1, 1, tzinfo=UTC)).to_prefect()),
            "slug": None,
        }
        edited = replace(SPEC, schedules=(*SPEC.schedules, extra))

        assert [one.field for one in differences(edited, SPEC)] == ["schedules"]

    def test_the_order_of_keys_is_none(self):
        turned = replace(SPEC, parameters={"options": {"pages": [1, 2]}, "recipient": "ops"})

        assert differences(SPEC, turned) == ()

    @pytest.mark.parametrize(
        ("one", "other", "differ"),
        [
            ({"x": True}, {"x": 1}, True),
            ({"x": [0, {"y": False}]}, {"x": [0, {"y": 0}]}, True),
            ({"x": 1}, {"x": 1.0}, False),  # one number, to JSON as to Python
            ({"x": None}, {}, True),
            ({"x": [1]}, {"x": [1, 1]}, True),
            ({"x": []}, {"x": {}}, True),
            ({"x": "1"}, {"x": 1}, True),
        ],
    )
    def test_values_are_compared_as_json(self, one, other, differ):
        old, new = (replace(SPEC, parameters=parameters) for parameters in (one, other))

        assert bool(differences(old, new)) == differ
        assert bool(differences(new, old)) == differ


def test_key_is_what_prefect_cannot_change():
    assert SPEC.key == Key(SPEC.definition_id, "daily-report", "acme.nightly-report")


def test_reference_is_the_name_as_people_write_it():
    assert SPEC.reference == "acme/nightly-report"


def test_owner_tag():
    assert owner_tag("5b1c9d") == "rota:5b1c9d"


def test_labels_are_those_that_a_run_looks_for():
    identity = UUID(SPEC.definition_id)

    assert labels(identity, "acme/nightly-report") == {
        DEFINITION_LABEL: SPEC.definition_id,
        REFERENCE_LABEL: "acme/nightly-report",
    }
    assert labels(SPEC.definition_id, "a/b") == labels(identity, "a/b")


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ((0, 0, None), {"ROTA_RETRIES": "0", "ROTA_RETRY_DELAY_SECONDS": "0"}),
        (
            (3, 90, 60.0),
            {
                "ROTA_RETRIES": "3",
                "ROTA_RETRY_DELAY_SECONDS": "90",
                "ROTA_TIMEOUT_SECONDS": "60",
            },
        ),
        (
            (1, 86_400, 0.25),
            {
                "ROTA_RETRIES": "1",
                "ROTA_RETRY_DELAY_SECONDS": "86400",
                "ROTA_TIMEOUT_SECONDS": "0.25",
            },
        ),
    ],
)
def test_environment(policies, expected):
    assert environment(*policies) == expected
