"""The outside world: one Prefect block a service.

This module is also the `prefect.collections` entry point: Prefect imports it in every process that
looks for a block type, so that `Block.load("workflow-service/default")` works there. Keep it light.
"""

from blocks.embedders import LocalEmbedder, OpenAIEmbedder
from blocks.github_service import GitHub
from blocks.provisioner import ProvisionerQueue
from blocks.records import Records
from blocks.ssh import SSHAccess
from blocks.time4vps import Time4VPS
from blocks.workflow_service import WorkflowService

__all__ = [
    "GitHub",
    "LocalEmbedder",
    "OpenAIEmbedder",
    "ProvisionerQueue",
    "Records",
    "SSHAccess",
    "Time4VPS",
    "WorkflowService",
]
