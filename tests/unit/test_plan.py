"""What has to be done: current and desired on one side, the changes on the other."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.plan import Changes, Plan, calculate
from deployments.spec import Deployed, DeploymentSpec

SPEC = DeploymentSpec(
    definition_id="1",
    flow_name="report",
    name="acme.a",
    description=None,
    entrypoint="deployments.bound.report",
    parameters={"recipient": "ops"},
    parameter_schema={},
    schedules=({"slug": "definition", "active": True, "parameters": {}, "schedule": {}},),
    paused=False,
    overlap=None,
    tags=("rota:i1",),
    work_pool="rota",
    work_queue="acme",
    job_variables={},
)

A = SPEC
B = replace(SPEC, definition_id="2", name="acme.b")
C = replace(SPEC, definition_id="3", name="acme.c")
A_LATER = replace(A, parameters={"recipient": "dev"})
A_PAUSED = replace(A, paused=True)
A_AS_CLEANUP = replace(A, flow_name="cleanup")
A_ANEW = replace(A, definition_id="9")
A_BY_HAND = replace(A, tags=("rota:i1", "mine"), schedules=())
A_COPY = replace(A, name="acme.a-copy")
NAMELESS = replace(A, definition_id="", name="a-copy")


def there(*specs: DeploymentSpec) -> list[Deployed]:
    """What Prefect holds; ids are made of what Prefect tells two deployments apart by."""
    return [Deployed(id=f"{spec.flow_name}/{spec.name}", spec=spec) for spec in specs]


def ids(*specs: DeploymentSpec) -> list[str]:
    return [one.id for one in there(*specs)]


def carried_out(current: list[Deployed], changes: Changes) -> list[Deployed]:
    """What Prefect holds after `changes`; a name must be free when it is taken."""
    held = {one.id: one for one in current}
    for gone in changes.delete:
        del held[gone.id]
    for new in there(*changes.create):
        assert new.id not in held
        held[new.id] = new
    for update in changes.update:
        held[update.deployed.id] = replace(update.deployed, spec=update.desired)
    return list(held.values())


@pytest.mark.parametrize(
    ("current", "desired", "held", "create", "update", "delete"),
    [
        pytest.param([], [], (), [], [], [], id="nothing at all"),
        pytest.param([], [A, B], (), [A, B], [], [], id="first round"),
        pytest.param([A], [A, B], (), [B], [], [], id="second round"),
        pytest.param([A, B], [B, A], (), [], [], [], id="idempotency"),
        pytest.param([A, B], [A_LATER, B], (), [], [A_LATER], [], id="parameters changed"),
        pytest.param([A, B], [A_PAUSED, B], (), [], [A_PAUSED], [], id="paused"),
        pytest.param([A_BY_HAND], [A], (), [], [A], [], id="edited by hand"),
        pytest.param([A], [A_AS_CLEANUP], (), [A_AS_CLEANUP], [], [A], id="duty changed"),
        pytest.param([A, B], [B], (), [], [], [A], id="definition gone"),
        pytest.param([A, B], [], (), [], [], [A, B], id="all definitions gone"),
        pytest.param([A], [A_ANEW], (), [A_ANEW], [], [A], id="deleted and inserted again"),
        pytest.param([A, B], [B], "1", [], [], [], id="held by a problem"),
        pytest.param([B], [B], "1", [], [], [], id="a problem from the start"),
        pytest.param([A, A_AS_CLEANUP], [], "1", [], [], [], id="held with an old duty"),
        pytest.param([A, B], [], "1", [], [], [B], id="held while another goes"),
        pytest.param([A, A_COPY], [A], (), [], [], [A_COPY], id="duplicate, sorted behind"),
        pytest.param([A_COPY, A], [A], (), [], [], [A_COPY], id="duplicate, sorted before"),
        pytest.param([A, A_COPY], [], "1", [], [], [], id="duplicates of what is held"),
        pytest.param([A, NAMELESS], [A], (), [], [], [NAMELESS], id="duplicate without labels"),
        pytest.param([A, A], [A], (), [], [], [], id="read twice"),
        pytest.param([A, A], [A_LATER], (), [], [A_LATER], [], id="read twice and changed"),
        pytest.param(
            [A, B, C], [A_LATER, C, A_AS_CLEANUP], "2", [A_AS_CLEANUP], [A_LATER], [], id="mixed"
        ),
    ],
)
def test_changes(current, desired, held, create, update, delete):
    plan = calculate(desired, there(*current), held)

    assert list(plan.changes.create) == create
    assert [one.desired for one in plan.changes.update] == update
    assert [one.id for one in plan.changes.delete] == ids(*delete)
    assert len(plan.changes) == len(create) + len(update) + len(delete)


def test_what_needs_no_change_is_told_apart():
    plan = calculate([A, C], there(A, B, C), held={"2"})

    assert plan == Plan(Changes(), unchanged=tuple(there(A, C)), held=tuple(there(B)))


def test_an_update_says_what_differs():
    (update,) = calculate([replace(A_LATER, paused=True)], there(A)).changes.update

    assert update.deployed.spec == A
    assert update.differences == (
        ("parameters", {"recipient": "ops"}, {"recipient": "dev"}),
        ("paused", False, True),
    )


def test_no_changes_are_false():
    assert not Changes()
    assert Changes(create=(A,))


SPECS = st.builds(
    lambda number, flow, paused, limit: replace(
        SPEC,
        definition_id=str(number),
        name=f"acme.{number}",
        flow_name=flow,
        paused=paused,
        parameters={"limit": limit},
    ),
    st.integers(1, 4),
    st.sampled_from(["report", "cleanup"]),
    st.booleans(),
    st.sampled_from([0, 1, True, False]),
)
ROSTER = st.lists(SPECS, unique_by=lambda spec: spec.definition_id)
DEPLOYED = st.lists(SPECS | st.sampled_from([A, A_COPY, A_ANEW, NAMELESS]), max_size=8).map(
    lambda specs: there(*specs)
)


@settings(deadline=None)
@given(ROSTER, DEPLOYED)
def test_second_apply_changes_nothing(desired, current):
    first = calculate(desired, current).changes
    after = carried_out(current, first)

    assert sorted(one.spec.key for one in after) == sorted(spec.key for spec in desired)
    assert calculate(desired, after).changes == Changes()


@settings(deadline=None)
@given(ROSTER, DEPLOYED, st.sets(st.sampled_from("1234")))
def test_held_definitions_are_never_touched(desired, current, held):
    changes = calculate([one for one in desired if one.definition_id not in held], current, held)

    touched = {
        *(spec.definition_id for spec in changes.changes.create),
        *(one.desired.definition_id for one in changes.changes.update),
        *(one.spec.definition_id for one in changes.changes.delete),
    }
    assert touched.isdisjoint(held)


@settings(deadline=None)
@given(ROSTER, DEPLOYED)
def test_every_deployment_is_accounted_for_once(desired, current):
    plan = calculate(desired, current)

    told = [*plan.changes.delete, *plan.unchanged, *(one.deployed for one in plan.changes.update)]
    assert sorted(one.id for one in told) == sorted({one.id for one in current})
