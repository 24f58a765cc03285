"""What steps of actions do, by their kinds."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from prefect import get_run_logger
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blocks import WorkflowService
from blocks.addresses import Allowed
from blocks.outgoing import Backoff
from blocks.records import TenantRecords
from blocks.workflow_service import Execution, WorkflowRefused
from flows.blocks_by_name import ForeignBlock, check_owner, load
from flows.circuit import Circuit
from flows.occurrence import Occurrence
from flows.step_command import Command, command
from flows.step_http import Http, http
from flows.step_values import Unfit
from flows.workflow_run import trigger_of

WITHIN = 0.8
"""The part of a step's time in which a workflow service has to answer."""


@dataclass(frozen=True)
class Call:
    """What a step is done for.

    Attributes:
        tenant: Whose action it is.
        occurrence: The run's.
        key: Tells whoever is called that two calls are one.
        timeout_seconds: How long it may take.
        allowed: What may be called beside the public addresses.
        records: The tenant's records.
    """

    tenant: str
    occurrence: Occurrence
    key: str
    timeout_seconds: float
    allowed: Allowed
    records: TenantRecords


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Slack(_Input):
    """A message, through one of Prefect's notification blocks."""

    block: str
    text: str = Field(min_length=1)
    subject: str | None = None


class Log(_Input):
    """A line in the run's log."""

    text: str
    level: Literal["debug", "info", "warning", "error"] = "info"


class Workflow(_Input):
    """A start of a workflow."""

    workflow_id: str = Field(min_length=1)
    input: dict[str, Any] | None = None
    service: str = "default"


async def do(kind: str, value: Any, call: Call) -> Any:
    """Do a step, and return what it puts out.

    Args:
        kind: Its kind.
        value: Its input, filled.
        call: What it is for.

    Raises:
        Unfit: It cannot be done as it is.
        flows.circuit.PutOff: It cannot be done now.
        Exception: It failed, and says why.
    """
    if kind not in KINDS:
        raise Unfit(f"This worker knows no steps of the kind {kind!r}; update it")
    model, function = KINDS[kind]
    try:
        asked = model.model_validate(value)
    except ValidationError as error:
        said = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5]]
        raise Unfit(f"Its input is not what {kind} takes: {'; '.join(said)}") from None
    return await function(asked, call)


async def _http(asked: Http, call: Call) -> Any:
    return await http(asked, call.tenant, call.key, call.timeout_seconds, call.allowed)


async def _command(asked: Command, call: Call) -> Any:
    return await command(asked, call.tenant, call.key)


async def _slack(asked: Slack, call: Call) -> Any:
    try:
        check_owner(asked.block, call.tenant)
        block: Any = await Block.aload(asked.block)
    except ForeignBlock as foreign:
        raise Unfit(str(foreign)) from None
    except Exception as error:
        # What it is made of may be repeated in the text of an error that says that it does not fit.
        raise Unfit(
            f"There is no block {asked.block!r} that can be used ({type(error).__name__}); make it "
            "in Prefect's UI under Blocks, and give its type and its name, such as "
            "'slack-webhook/ops'"
        ) from None
    if not isinstance(block, NotificationBlock):
        raise Unfit(f"The block {asked.block!r} is not one that notifies people")
    try:
        with block.raise_on_failure():
            await block.notify(body=asked.text, subject=asked.subject)
    except Exception as error:
        # The address of a webhook is a secret, and stands in the text of most errors.
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else ""
        said = f"{type(error).__name__} {status}".rstrip()
        raise RuntimeError(f"{asked.block} did not take the message: {said}") from None
    return {"block": asked.block}


async def _log(asked: Log, call: Call) -> Any:
    getattr(get_run_logger(), asked.level)("%s", asked.text)
    return {"text": asked.text}


async def _workflow(asked: Workflow, call: Call) -> Any:
    try:
        block = await load(WorkflowService, asked.service, call.tenant)
    except ForeignBlock as foreign:
        raise Unfit(str(foreign)) from None
    # The step's own limit must not come first: it would not tell that the service is away.
    deadline = WITHIN * call.timeout_seconds

    async def start(backoff: Backoff) -> Execution:
        return await block.execute(
            asked.workflow_id,
            {"input": {**(asked.input or {}), **trigger_of(call.occurrence)}},
            idempotency_key=call.key,
            deadline_seconds=deadline,
            backoff=backoff,
        )

    circuit = Circuit(call.records, asked.service, block.put_off_seconds)
    try:
        execution = await circuit.through(start, deadline)
    except WorkflowRefused as refused:
        raise Unfit(str(refused)) from refused
    return {"execution": execution.id}


KINDS: Mapping[str, tuple[type[BaseModel], Callable[[Any, Call], Awaitable[Any]]]] = {
    "http": (Http, _http),
    "command": (Command, _command),
    "slack": (Slack, _slack),
    "log": (Log, _log),
    "workflow": (Workflow, _workflow),
}
