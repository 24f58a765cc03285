"""The workflow service, which starts workflows that are defined elsewhere.

WorkflowServiceError
├── WorkflowRefused              4xx or 3xx; another try would end the same way
├── WorkflowAnswerUnusable       2xx, but no execution id in it
└── WorkflowServiceUnavailable   no usable answer until the deadline
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

from blocks.masking import Masking
from blocks.outgoing import (
    BACKOFF,
    EXCERPT_CHARACTERS,
    PASSING,
    Address,
    Backoff,
    GaveUp,
    Setback,
    check_idempotency_key,
    fits_into_a_header,
    logger,
    path_part,
    persist,
    read,
    retry_after,
    tls,
)

MAX_ANSWER_BYTES = 1 << 20


class WorkflowServiceError(Exception):
    """The workflow service did not start the workflow."""


class WorkflowRefused(WorkflowServiceError):
    """The workflow service refused the request, and would refuse it again.

    Attributes:
        status: The HTTP status that it answered with.

    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class WorkflowAnswerUnusable(WorkflowServiceError):
    """The workflow service accepted the request, but its answer holds no execution id."""


class WorkflowServiceUnavailable(WorkflowServiceError):
    """The workflow service could not be reached, or had no time, until the deadline."""


@dataclass(frozen=True)
class Execution:
    """A workflow execution that the service has started.

    Attributes:
        id: The service's name for it.
        tries: How many requests it took, at least 1.

    """

    id: str
    tries: int


class WorkflowService(Block):
    """Starts workflows in a workflow service over HTTP.

    Attributes:
        base_url: The service's address, `http` or `https`, without credentials.
        token: A bearer token, if the service wants one.
        execute_path: The path that starts a workflow, below the address.
        connect_seconds: How long to wait for a connection, in seconds.
        read_seconds: How long to wait for each part of the answer, in seconds.
        put_off_seconds: How long runs are put off when the service cannot be reached, in seconds.

    Example:
        Load a stored workflow service and start a workflow:
        ```python
        from blocks import WorkflowService

        service = WorkflowService.load("BLOCK_NAME")
        execution = await service.execute("wf-1", {"input": {}}, idempotency_key="first")
        ```

    """

    _block_type_name = "Workflow Service"
    _block_type_slug = "workflow-service"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9"
        "/assets/block-logos/webhook.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    # A bad token must not be repeated in the error that says so.
    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: Address = Field(
        title="Base URL",
        description="The service's address, for example `https://workflows.example.com`.",
    )
    token: SecretStr | None = Field(
        default=None,
        description="A token to send as `Authorization: Bearer`, if the service wants one.",
    )
    execute_path: str = Field(
        default="/api/workflow/{workflow_id}/execute",
        pattern=r"^/[^\s?#]*\{workflow_id\}[^\s#]*$",
        description="The path below the address that starts a workflow; holds `{workflow_id}`.",
    )
    connect_seconds: float = Field(
        default=5, gt=0, description="How long to wait for a connection, in seconds."
    )
    read_seconds: float = Field(
        default=30, gt=0, description="How long to wait for each part of an answer, in seconds."
    )
    put_off_seconds: float = Field(
        default=30,
        gt=0,
        le=600,
        description="How long runs are put off when the service cannot be reached, in seconds; "
        "twice as long after each try, up to 600.",
    )

    @field_validator("token")
    @classmethod
    def _fits_into_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        return fits_into_a_header(token) if token and token.get_secret_value() else None

    async def execute(
        self,
        workflow_id: str,
        body: Mapping[str, Any],
        idempotency_key: str,
        deadline_seconds: float = 300,
        *,
        backoff: Backoff = BACKOFF,
    ) -> Execution:
        """Start a workflow, and try again while the service cannot answer.

        A broken or slow connection, 429 and 5xx are tried again, with the same key, after 1, 5,
        10, 20, 40, 60, 60... seconds, give or take a fifth, or after the answer's `Retry-After`.

        Args:
            workflow_id: The workflow's name in the service.
            body: What to send; anything that JSON can hold.
            idempotency_key: Tells the service that two requests are one; printable ASCII.
            deadline_seconds: When to give up, in seconds from now.
            backoff: When to try again.

        Raises:
            ValueError: An argument cannot be sent.
            WorkflowRefused: The service answered 4xx (not 429) or 3xx.
            WorkflowAnswerUnusable: The service answered 2xx without an execution id.
            WorkflowServiceUnavailable: The deadline came before a usable answer.

        """
        url = self._execute_url(workflow_id)
        headers = self._headers(idempotency_key)
        content = json.dumps(dict(body), allow_nan=False).encode()
        limits = httpx.Timeout(self.read_seconds, connect=self.connect_seconds)
        async with httpx.AsyncClient(verify=tls(), timeout=limits, headers=headers) as client:
            try:
                execution_id, tries = await persist(
                    lambda left: self._try(client, url, content, within=left),
                    deadline_seconds,
                    backoff,
                    _log_setback,
                )
            except GaveUp as gave_up:
                raise WorkflowServiceUnavailable(
                    f"The workflow service did not start the workflow: POST {url} failed, {gave_up}"
                ) from gave_up.__cause__
        return Execution(execution_id, tries)

    async def _try(self, client: httpx.AsyncClient, url: str, content: bytes, within: float) -> str:
        try:
            async with (
                asyncio.timeout(within),
                client.stream("POST", url, content=content) as response,
            ):
                answer = await read(response, MAX_ANSWER_BYTES)
        except PASSING as error:
            raise Setback.of(error) from error
        said = self._said(response, answer)
        if response.status_code == 429 or response.status_code >= 500:
            raise Setback(said, retry_after(response.headers, at=datetime.now(UTC)))
        if not response.is_success:
            raise WorkflowRefused(
                f"The workflow service refused POST {url} with {said}", response.status_code
            )
        execution_id = _execution_id(answer)
        if execution_id is None:
            raise WorkflowAnswerUnusable(
                f"The workflow service accepted POST {url}, but its answer is not a JSON object of "
                f"at most 1 MiB with an `executionId`. It answered {said}"
            )
        return self._masking.text(execution_id)

    def _execute_url(self, workflow_id: str) -> str:
        part = path_part(workflow_id, "a workflow id")
        path = self.execute_path.replace("{workflow_id}", part)
        return str(self.base_url).rstrip("/") + path

    def _headers(self, idempotency_key: str) -> dict[str, str]:
        headers = {
            "Accept": "application/json",
            # Only what is sent is counted against the size limit, so nothing may be packed.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "Idempotency-Key": check_idempotency_key(idempotency_key),
        }
        if self.token:
            headers["Authorization"] = f"Bearer {self.token.get_secret_value()}"
        return headers

    @property
    def _masking(self) -> Masking:
        return Masking([self.token.get_secret_value()] if self.token else [])

    def _said(self, response: httpx.Response, answer: bytes) -> str:
        status = f"{response.status_code} {response.reason_phrase}".strip()
        # Some services repeat the token that they do not accept.
        body = self._masking.text(answer.decode(errors="replace"))
        body = body.replace("\0", "\N{REPLACEMENT CHARACTER}")  # no database takes it
        return f"{status}: {body[:EXCERPT_CHARACTERS]}" if body else status


def _execution_id(answer: bytes) -> str | None:
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    for name in ("executionId", "execution_id", "id"):
        value = document.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return str(value)
    return None


def _log_setback(setback: Setback, tries: int, wait: float) -> None:
    logger(__name__).warning(
        "The workflow service failed try %d: %s; trying again in %.1f s.",
        tries,
        setback,
        wait,
        extra={"action": "workflow_service_retry"},
    )
