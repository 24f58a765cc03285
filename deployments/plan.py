"""What has to be done so that Prefect holds what the definitions ask for; no I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from deployments.spec import Deployed, DeploymentSpec, Difference, Key, differences


@dataclass(frozen=True)
class Update:
    """One deployment that is there, and not as it should be."""

    deployed: Deployed
    desired: DeploymentSpec
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Changes:
    """What to write to Prefect: first the deletes, so that a name is free, then the rest."""

    create: tuple[DeploymentSpec, ...] = ()
    update: tuple[Update, ...] = ()
    delete: tuple[Deployed, ...] = ()

    def __len__(self) -> int:
        return len(self.create) + len(self.update) + len(self.delete)


@dataclass(frozen=True)
class Plan:
    """The changes, beside what needs none."""

    changes: Changes
    unchanged: tuple[Deployed, ...] = ()
    held: tuple[Deployed, ...] = ()


#   desired   current   held   case
#   -------   -------   ----   ------------------------------------------------------
#      x         -        -    create
#      x         x        -    update, or unchanged if no field differs
#      -         x        -    delete: the definition is gone, or names another duty
#      -         x        x    held: its definition has a problem; its last good state stays
#
# Both sides are keyed by what cannot be changed: definition, flow and name. So a copy that somebody
# made in Prefect's UI is deleted, whatever its name. A deployment that was read twice, because
# pages shifted while they were read, counts once. Foreign deployments never get here: `current`
# reads owned ones only.
def calculate(
    desired: Iterable[DeploymentSpec],
    current: Iterable[Deployed],
    held: Collection[str] = (),
) -> Plan:
    """Compare what is wanted with what is there.

    Args:
        desired: The specs that the definitions ask for.
        current: The owned deployments that Prefect holds, of the same definitions.
        held: Ids of definitions that have a problem: nothing of theirs is touched.
    """
    wanted: Mapping[Key, DeploymentSpec] = {spec.key: spec for spec in desired}
    there = {deployed.id: deployed for deployed in current}
    update: list[Update] = []
    delete: list[Deployed] = []
    unchanged: list[Deployed] = []
    kept: list[Deployed] = []
    for deployed in there.values():
        spec = wanted.get(deployed.spec.key)
        if deployed.spec.definition_id in held:
            kept.append(deployed)
        elif spec is None:
            delete.append(deployed)
        elif found := differences(deployed.spec, spec):
            update.append(Update(deployed, spec, found))
        else:
            unchanged.append(deployed)
    known = {deployed.spec.key for deployed in there.values()}
    create = tuple(spec for key, spec in wanted.items() if key not in known)
    changes = Changes(create, tuple(update), tuple(delete))
    return Plan(changes, tuple(unchanged), tuple(kept))
