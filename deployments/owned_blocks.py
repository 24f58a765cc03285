"""Whose Prefect's blocks are; no I/O.

Prefect keeps one set of blocks for all tenants. One that is named `acme--ops` is the tenant acme's;
one without two dashes in its name is for all. A tenant's slug has no two dashes in a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from store.models import Definition

BETWEEN = "--"
"""Stands between a tenant's slug and the rest of the name of a block of its own."""

PARAMETERS = ("service", "records", "embedder", "notify")
"""Parameters of duties that name blocks."""

STEPS = {"slack": "block", "workflow": "service"}
"""Which part of a step's input names a block, by the step's kind."""


def in_definition(definition: Definition, parameters: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the blocks that a definition names, each with its field."""
    yield from _foreign(definition.tenant, "notify", definition.notify)
    for name in PARAMETERS:
        yield from _foreign(definition.tenant, f"parameters.{name}", parameters.get(name))


def in_step(tenant: str, kind: str, value: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the block that a step's input names, with its field."""
    if kind in STEPS:
        yield from _foreign(tenant, f"input.{STEPS[kind]}", value.get(STEPS[kind]))


def _foreign(tenant: str, field: str, said: Any) -> Iterator[str]:
    if isinstance(said, list):
        for number, one in enumerate(said):
            yield from _foreign(tenant, f"{field}.{number}", one)
    elif isinstance(said, str):
        owner, between, _ = said.rpartition("/")[2].partition(BETWEEN)
        if between and owner != tenant:
            yield (
                f"{field}: {said!r:.80} is a block of another tenant's; name one of {tenant}'s "
                f"own, {tenant}{BETWEEN}..., or one for all, without two dashes in its name"
            )
