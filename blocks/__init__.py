"""The outside world: one Prefect block a service.

This module is also the `prefect.collections` entry point: Prefect imports it in every process that
looks for a block type, so that `Block.load("workflow-service/default")` works there. Keep it light.
"""

from blocks.records import Records
from blocks.workflow_service import WorkflowService

__all__ = ["Records", "WorkflowService"]
