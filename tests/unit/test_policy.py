"""Which changes each policy lets through."""

import pytest

from deployments.plan import Changes, Update
from deployments.policy import POLICIES, create_only, sync, upsert_only
from deployments.spec import Deployed, DeploymentSpec

SPEC = DeploymentSpec(
    definition_id="1",
    flow_name="report",
    name="acme.a",
    description=None,
    entrypoint=None,
    parameters={},
    parameter_schema={},
    schedules=(),
    paused=False,
    overlap=None,
    tags=(),
    work_pool=None,
    work_queue=None,
    job_variables={},
)
DEPLOYED = Deployed(id="d1", spec=SPEC)
UPDATE = Update(DEPLOYED, SPEC, ())
CHANGES = Changes(create=(SPEC,), update=(UPDATE,), delete=(DEPLOYED,))


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("sync", CHANGES),
        ("upsert-only", Changes(create=(SPEC,), update=(UPDATE,))),
        ("create-only", Changes(create=(SPEC,))),
    ],
)
def test_what_a_policy_allows(name, allowed):
    assert POLICIES[name](CHANGES) == allowed


def test_every_policy_has_a_name():
    assert {"sync": sync, "upsert-only": upsert_only, "create-only": create_only} == POLICIES


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_policy_adds_nothing_and_says_the_same_twice(policy):
    assert policy(Changes()) == Changes()
    assert policy(policy(CHANGES)) == policy(CHANGES)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_changes_are_left_as_they_were(policy):
    before = Changes(CHANGES.create, CHANGES.update, CHANGES.delete)
    policy(CHANGES)

    assert before == CHANGES
