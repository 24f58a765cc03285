"""Definitions become deployments. `from deployments import run_now` runs one at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployments.runs import run_now

__all__ = ["run_now"]


def __getattr__(name: str) -> Any:
    # Every flow run imports this package on its way to `deployments.bound`, and needs no client.
    if name != "run_now":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deployments.runs import run_now

    return run_now
