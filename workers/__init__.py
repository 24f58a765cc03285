"""The in-process worker.

This module is also a `prefect.collections` entry point: Prefect imports it wherever it looks for
a type of worker, so that `prefect worker start --type inline` works.
"""

from workers.inline import InlineWorker

__all__ = ["InlineWorker"]
