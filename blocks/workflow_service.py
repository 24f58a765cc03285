"""The workflow service, which starts workflows that are defined elsewhere.

WorkflowServiceError
├── WorkflowRefused              4xx or 3xx; another try would end the same way
├── WorkflowAnswerUnusable       2xx, but no execution id in it
└── WorkflowServiceUnavailable   no usable answer until the deadline
"""

import asyncio
import functools
import json
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx
from prefect.blocks.abstract import LoggerOrAdapter
from prefect.blocks.core import Block
from prefect.exceptions import MissingContextError
from prefect.logging.loggers import get_logger, get_run_logger
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

MAX_ANSWER_BYTES = 1 << 20
EXCERPT_CHARACTERS = 254
DELAYS_SECONDS = (1.0, 5.0, 10.0, 20.0, 40.0, 60.0)
LAST_TRY_SECONDS = 5.0

_PASSING = (
    TimeoutError,
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
)
_random = random.SystemRandom()


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


class _Setback(Exception):
    """One try failed in a way that may have passed by the next."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Execution:
    """A workflow execution that the service has started.

    Attributes:
        id: The service's name for it.
        tries: How many requests it took, at least 1.

    """

    id: str
    tries: int


def _about_one() -> float:
    return _random.uniform(0.8, 1.2)


@dataclass(frozen=True)
class Backoff:
    """When to try again, with the clock and the sleep that this goes by.

    Attributes:
        clock: Tells the time in seconds from any fixed point; must not run backwards.
        sleep: Waits for so many seconds.
        jitter: A factor near 1 for each delay, so that many callers do not return as one.

    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    jitter: Callable[[], float] = _about_one

    def wait(self, tries: int, left: float, retry_after: float | None = None) -> float | None:
        """Return how long to wait after a failed try, or None to give up.

        Args:
            tries: How many tries were made, at least 1.
            left: Seconds until the deadline, which no wait reaches.
            retry_after: Seconds that the service asked for, if it did.

        """
        if retry_after is not None:
            # A service that asks for no wait at all must not be asked in a tight loop.
            asked = max(retry_after, DELAYS_SECONDS[0])
            return asked if asked < left else None
        delay = DELAYS_SECONDS[min(tries, len(DELAYS_SECONDS)) - 1] * self.jitter()
        if delay < left:
            return delay
        # The delays grow long; without this, the last minute of the time given would be unused.
        rest = left - LAST_TRY_SECONDS
        return rest if rest >= DELAYS_SECONDS[0] else None


BACKOFF = Backoff()


class WorkflowService(Block):
    """Starts workflows in a workflow service over HTTP.

    Attributes:
        base_url: The service's address, `http` or `https`, without credentials.
        token: A bearer token, if the service wants one.
        execute_path: The path that starts a workflow, below the address.
        connect_seconds: How long to wait for a connection, in seconds.
        read_seconds: How long to wait for each part of the answer, in seconds.

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

    base_url: HttpUrl = Field(
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

    @field_validator("base_url")
    @classmethod
    def _holds_an_address_only(cls, url: HttpUrl) -> HttpUrl:
        # The address appears in errors and logs, so nothing secret may be in it.
        if url.username or url.password:
            raise ValueError("The address must not hold a user or a password; use the token.")
        if url.query is not None or url.fragment is not None:
            raise ValueError("The address must end with its path, before any `?` or `#`.")
        return url

    @field_validator("token")
    @classmethod
    def _fits_into_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        if token is None or not token.get_secret_value():
            return None
        if not re.fullmatch(r"[\x21-\x7e]+", token.get_secret_value()):
            raise ValueError("The token must be visible ASCII, without spaces and line ends.")
        return token

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
        if deadline_seconds <= 0:
            raise ValueError("The deadline must be more than 0 seconds away.")
        url = self._execute_url(workflow_id)
        headers = self._headers(idempotency_key)
        content = json.dumps(dict(body), allow_nan=False).encode()
        limits = httpx.Timeout(self.read_seconds, connect=self.connect_seconds)
        began, tries = backoff.clock(), 0
        async with httpx.AsyncClient(verify=_tls(), timeout=limits, headers=headers) as client:
            while True:
                tries += 1
                left = deadline_seconds - (backoff.clock() - began)
                try:
                    execution_id = await self._try(client, url, content, within=left)
                    return Execution(execution_id, tries)
                except _Setback as setback:
                    spent = backoff.clock() - began
                    wait = backoff.wait(tries, deadline_seconds - spent, setback.retry_after)
                    if wait is None:
                        raise WorkflowServiceUnavailable(
                            f"The workflow service did not start the workflow: POST {url} failed, "
                            f"{tries} {'try' if tries == 1 else 'tries'} in {spent:.1f} s. "
                            f"The last answer: {setback}"
                        ) from setback.__cause__
                    _log_setback(setback, tries, wait)
                await backoff.sleep(wait)

    async def _try(self, client: httpx.AsyncClient, url: str, content: bytes, within: float) -> str:
        try:
            async with (
                asyncio.timeout(within),
                client.stream("POST", url, content=content) as response,
            ):
                answer = await _read(response)
        except _PASSING as error:
            # A timeout has no text of its own.
            raise _Setback(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        said = self._said(response, answer)
        if response.status_code == 429 or response.status_code >= 500:
            raise _Setback(said, _retry_after(response.headers, at=datetime.now(UTC)))
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
        return execution_id

    def _execute_url(self, workflow_id: str) -> str:
        # Quoting alone is not enough: proxies exist that undo it before they resolve the dots.
        parts = re.split(r"[/\\]", workflow_id)
        if not workflow_id.strip() or {".", ".."} & set(parts):
            raise ValueError(f"{workflow_id!r} is not a workflow id that a path can hold.")
        path = self.execute_path.replace("{workflow_id}", quote(workflow_id, safe=""))
        return str(self.base_url).rstrip("/") + path

    def _headers(self, idempotency_key: str) -> dict[str, str]:
        if not re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", idempotency_key):
            raise ValueError("The idempotency key must be printable ASCII.")
        headers = {
            "Accept": "application/json",
            # Only what is sent is counted against the size limit, so nothing may be packed.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "Idempotency-Key": idempotency_key,
        }
        if self.token:
            headers["Authorization"] = f"Bearer {self.token.get_secret_value()}"
        return headers

    def _said(self, response: httpx.Response, answer: bytes) -> str:
        status = f"{response.status_code} {response.reason_phrase}".strip()
        body = answer.decode(errors="replace")
        if self.token:
            # Some services repeat the token that they do not accept.
            body = body.replace(self.token.get_secret_value(), "**********")
        return f"{status}: {body[:EXCERPT_CHARACTERS]}" if body else status


@functools.cache
def _tls() -> ssl.SSLContext:
    # Reading the certificates takes tens of milliseconds, in which no other flow would run.
    return httpx.create_ssl_context()


async def _read(response: httpx.Response) -> bytes:
    """Read an answer as it was sent, up to the size limit; the rest is left unread."""
    answer = bytearray()
    async for chunk in response.aiter_raw():
        answer += chunk
        if len(answer) >= MAX_ANSWER_BYTES:
            break
    return bytes(answer[:MAX_ANSWER_BYTES])


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


def _retry_after(headers: httpx.Headers, at: datetime) -> float | None:
    """Read `Retry-After`, in seconds: a number or a date (RFC 9110, 10.2.3), else None."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", value):
        return float(value)
    until = _http_date(value)
    if until is None:
        return None
    # Measured by the service's clock where it tells it, because the date was written by that one.
    since = _http_date(headers.get("Date", "")) or at
    return max(0.0, (until - since).total_seconds())


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _log_setback(setback: _Setback, tries: int, wait: float) -> None:
    _logger().warning(
        "The workflow service failed try %d: %s; trying again in %.1f s.",
        tries,
        setback,
        wait,
        extra={"action": "workflow_service_retry"},
    )


def _logger() -> LoggerOrAdapter:
    """Return the run's logger, whose lines Prefect shows at the run, or a plain one."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger(__name__)
