"""The duty that starts a workflow."""

from datetime import UTC, datetime
from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed
from pydantic import Field

from blocks import WorkflowService
from blocks.outgoing import BACKOFF, Backoff
from blocks.workflow_service import Execution
from flows.blocks_by_name import load
from flows.circuit import PutOff, circuit_of, put_off
from flows.occurrence import Occurrence, current_occurrence
from flows.tenancy import own_tenant

NonEmpty = Annotated[str, Field(min_length=1)]


@flow
async def workflow_run(
    workflow_id: NonEmpty,
    input: dict[str, Any] | None = None,
    service: NonEmpty = "default",
    deadline_seconds: Annotated[float, Field(gt=0)] = 300,
    records: NonEmpty = "default",
) -> str:
    """Start a workflow in the workflow service.

    The service is told which occurrence the start is for (`triggerType`, `scheduleId` and
    `triggerTime` in the workflow's input) and starts one execution for it, however often the run
    is retried. The execution's id stands in the run's state message. The run ends when the
    workflow has been started; it does not wait for the workflow's end.

    While the service cannot be reached the run is put off, for a day at most, which uses up none
    of its retries.

    Args:
        workflow_id: The workflow to start, as the service names it.
        input: What to hand to the workflow, besides the three values above.
        service: The name of the Workflow Service block to use.
        deadline_seconds: How long to try while the service cannot answer, in seconds.
        records: The name of the Records block by which runs tell one another that the service is
            away; without it, none is put off.

    """
    occurrence = current_occurrence()
    block = await load(WorkflowService, service, own_tenant())

    async def start(backoff: Backoff) -> Execution:
        return await block.execute(
            workflow_id,
            {"input": {**(input or {}), **trigger_of(occurrence)}},
            idempotency_key=occurrence.idempotency_key,
            deadline_seconds=deadline_seconds,
            backoff=backoff,
        )

    async with circuit_of(block, service, records) as circuit:
        try:
            execution = await (
                circuit.through(start, deadline_seconds) if circuit else start(BACKOFF)
            )
        except PutOff as why:
            await put_off(why, datetime.now(UTC))
    # Prefect unpacks the state for the caller; the state's message is what its UI shows.
    return Completed(  # type: ignore[return-value]
        data=execution.id, message=f"Execution {execution.id} of workflow {workflow_id} started."
    )


def trigger_of(occurrence: Occurrence) -> dict[str, str | None]:
    """Return what the service is told of the occurrence that a workflow is started for."""
    return {
        "triggerType": occurrence.trigger,
        "scheduleId": occurrence.definition_id,
        "triggerTime": occurrence.time,
    }
