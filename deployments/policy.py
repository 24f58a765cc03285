"""Which changes may be carried out: a value that the operator picks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from deployments.plan import Changes

Policy = Callable[[Changes], Changes]


def sync(changes: Changes) -> Changes:
    """Allow everything: Prefect becomes what the definitions ask for."""
    return changes


def upsert_only(changes: Changes) -> Changes:
    """Allow what creates and updates: nothing is ever deleted."""
    return replace(changes, delete=())


def create_only(changes: Changes) -> Changes:
    """Allow what creates: nothing that is there is touched."""
    return replace(changes, update=(), delete=())


POLICIES: dict[str, Policy] = {
    "sync": sync,
    "upsert-only": upsert_only,
    "create-only": create_only,
}
