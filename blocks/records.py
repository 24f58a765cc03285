"""Rota's own HTTP API, by which flows read and write the records of a tenant.

RecordsError
├── RecordsRefused          4xx or 3xx; another try would end the same way
├── RecordsAnswerUnusable   2xx, but not with what was asked for
└── RecordsUnavailable      no answer until the deadline, or none to a call that is made only once
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import httpx
from prefect.blocks.core import Block
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    ValidationError,
    field_validator,
)

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

MAX_ANSWER_BYTES = 32 << 20
PROBLEM_CHARACTERS = 2000
LOOKED_AT = 65_536
"""Characters of an answer in which secrets are looked for, and beyond which nothing is shown."""
PAGE = 50
"""Items on a page. So many of the largest, projects with their specs, are within the bounds."""

REPEATABLE = frozenset({"GET", "PUT", "DELETE"})
"""Methods that do the same when they are called twice."""

Params: TypeAlias = Mapping[str, str | int | float | bool | Sequence[str]]
"""Names and values of a query."""


class RecordsError(Exception):
    """Rota did not do what was asked."""


class RecordsRefused(RecordsError):
    """Rota refused the request, and would refuse it again.

    Attributes:
        status: The HTTP status that it answered with.
        errors: The fields that it named, each with what is wrong; empty for the request itself.

    """

    def __init__(
        self, message: str, status: int | None = None, errors: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.errors = tuple(errors)


class RecordsAnswerUnusable(RecordsError):
    """Rota carried out the request, but its answer is not what was asked for."""


class RecordsUnavailable(RecordsError):
    """Rota could not be reached, or had no time, for as long as it was tried."""


class Records(Block):
    """Reads and writes what flows learn, through Rota's own HTTP API.

    Attributes:
        base_url: Rota's address, `http` or `https`, without credentials and without `/api/v1`.
        token: A token of the role `worker`, as `rota token create` shows it.
        connect_seconds: How long to wait for a connection, in seconds.
        read_seconds: How long to wait for each part of an answer, in seconds.
        deadline_seconds: When to give a call up, in seconds from its beginning.

    Example:
        Load a stored block and write records:
        ```python
        from blocks import Records

        records = Records.load("BLOCK_NAME")
        async with records.of("acme") as acme:
            written = await acme.put("servers", body={"servers": [{"handle": "vps-1"}]})
            async for servers in acme.pages("servers", params={"status": "active"}):
                print([server["handle"] for server in servers])
        ```

    """

    _block_type_name = "Records"
    _block_type_slug = "records"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9"
        "/assets/block-logos/webhook.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    # A bad token must not be repeated in the error that says so.
    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: Address = Field(
        title="Base URL",
        description="Rota's address, for example `https://rota.example.com`.",
    )
    token: SecretStr = Field(
        description="A token of the role `worker`, as `rota token create` shows it."
    )
    connect_seconds: float = Field(
        default=5, gt=0, description="How long to wait for a connection, in seconds."
    )
    # The API itself gives a request up after 30 s, and its answer says so.
    read_seconds: float = Field(
        default=40, gt=0, description="How long to wait for each part of an answer, in seconds."
    )
    deadline_seconds: float = Field(
        default=300, gt=0, description="When to give a call up, in seconds from its beginning."
    )

    _fits_into_a_header = field_validator("token")(fits_into_a_header)

    @asynccontextmanager
    async def of(
        self, tenant: str, *, backoff: Backoff = BACKOFF
    ) -> AsyncIterator["TenantRecords"]:
        """Open the records of a tenant; calls made inside share their connections.

        Args:
            tenant: The tenant's slug.
            backoff: When to try again.

        Raises:
            ValueError: The tenant cannot stand in a path.

        """
        address = str(self.base_url).rstrip("/")
        url = f"{address}/api/v1/tenants/{path_part(tenant, 'a tenant')}"
        limits = httpx.Timeout(self.read_seconds, connect=self.connect_seconds)
        headers = {
            "Accept": "application/json",
            # Only what is sent is counted against the size limit, so nothing may be packed.
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {self.token.get_secret_value()}",
        }
        # A proxy sees nothing of what goes through it to https, but all of what goes to http.
        tunnelled = self.base_url.scheme == "https"
        async with httpx.AsyncClient(
            verify=tls(), timeout=limits, headers=headers, trust_env=tunnelled
        ) as client:
            yield TenantRecords(tenant, client, url, self.token, self.deadline_seconds, backoff)


class TenantRecords:
    """The records of one tenant, below `/api/v1/tenants/{tenant}`.

    `Records.of` opens them. A path is given in its parts, which may come from outside: each is
    quoted. Bodies and answers are what JSON can hold.

    What does the same when it is done twice is tried again until the deadline, when the
    connection breaks, and after 429 and 5xx: after 1, 5, 10, 20, 40, 60, 60... seconds, give or
    take a fifth, or after the answer's `Retry-After`. That is `get`, `put`, `delete`, and `post`
    with an idempotency key. `patch`, and `post` without a key, are made once.

    Every call raises `ValueError` for what cannot be sent, `RecordsRefused`,
    `RecordsAnswerUnusable`, or `RecordsUnavailable`.

    Attributes:
        tenant: The tenant's slug.

    """

    def __init__(
        self,
        tenant: str,
        client: httpx.AsyncClient,
        url: str,
        token: SecretStr,
        deadline_seconds: float,
        backoff: Backoff,
    ) -> None:
        self.tenant = tenant
        self._client = client
        self._url = url
        self._token = token
        self._deadline_seconds = deadline_seconds
        self._backoff = backoff

    async def get(self, *path: str, params: Params | None = None) -> Any:
        """Return what stands at a path."""
        return await self._call("GET", path, params)

    async def pages(
        self, *path: str, params: Params | None = None, size: int = PAGE
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the items of a list, a page at a time.

        It stays right while rows come and go: a page begins after the last row of the one before.

        Args:
            path: The list's path, in its parts.
            params: Its filters and its order.
            size: Items on a page, 1 to 200.

        """
        query: Params | str | None = {**(params or {}), "limit": size}
        while query is not None:
            page = _page(await self._call("GET", path, query), path)
            yield page.items
            # Only its query is followed, so the token goes nowhere else, and a path that a proxy
            # adds in front stays.
            query = urlsplit(page.next).query if page.next else None

    async def put(self, *path: str, body: Any, params: Params | None = None) -> Any:
        """Write what is to stand at a path; return the answer."""
        return await self._call("PUT", path, params, body)

    async def post(
        self,
        *path: str,
        body: Any = None,
        params: Params | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Add to what stands at a path, or do what it names; return the answer.

        Args:
            path: The path, in its parts.
            body: What to send.
            params: The query.
            idempotency_key: Tells Rota that two requests are one, where the path takes such a key;
                printable ASCII.

        """
        return await self._call("POST", path, params, body, idempotency_key)

    async def patch(self, *path: str, body: Mapping[str, Any], params: Params | None = None) -> Any:
        """Change what the body names; return the answer."""
        return await self._call("PATCH", path, params, body)

    async def delete(self, *path: str, params: Params | None = None) -> bool:
        """Delete what stands at a path; return whether it was there.

        False is also returned where an earlier try deleted it and the answer to that was lost.
        """
        try:
            await self._call("DELETE", path, params)
        except RecordsRefused as refused:
            if refused.status != httpx.codes.NOT_FOUND:
                raise
            return False
        return True

    async def _call(
        self,
        method: str,
        path: Sequence[str],
        params: Params | str | None = None,
        body: Any = None,
        key: str | None = None,
    ) -> Any:
        url = "/".join([self._url, *(path_part(part, "a name") for part in path)])
        what = f"{method} {url}"
        headers = {} if body is None else {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = check_idempotency_key(key)
        content = None if body is None else json.dumps(body, allow_nan=False).encode()

        def ask() -> AbstractAsyncContextManager[httpx.Response]:
            return self._client.stream(method, url, params=params, content=content, headers=headers)

        if method not in REPEATABLE and key is None:
            try:
                return await self._try(what, ask, self._deadline_seconds)
            except Setback as setback:
                raise RecordsUnavailable(
                    f"Rota failed on {what}: {setback}. It was not tried again, for it may have "
                    "been done all the same."
                ) from setback.__cause__
        try:
            answer, _ = await persist(
                lambda left: self._try(what, ask, left),
                self._deadline_seconds,
                self._backoff,
                _log_setback,
            )
        except GaveUp as gave_up:
            raise RecordsUnavailable(f"Rota did not do {what}, {gave_up}") from gave_up.__cause__
        return answer

    async def _try(
        self,
        what: str,
        ask: Callable[[], AbstractAsyncContextManager[httpx.Response]],
        within: float,
    ) -> Any:
        try:
            async with asyncio.timeout(within), ask() as response:
                answer = await read(response, MAX_ANSWER_BYTES)
        except PASSING as error:
            raise Setback.of(error) from error
        status = response.status_code
        if response.is_success:
            return None if status == httpx.codes.NO_CONTENT else self._document(what, answer)
        said, errors = self._problem(answer)
        reply = f"{status} {response.reason_phrase}".strip() + (f": {said}" if said else "")
        if status == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            raise Setback(reply, retry_after(response.headers, at=datetime.now(UTC)))
        if response.has_redirect_location:
            elsewhere = self._masked(response.headers["Location"])[:EXCERPT_CHARACTERS]
            reply += f". It leads to {elsewhere}, and is not followed; see to the block's base_url"
        raise RecordsRefused(f"Rota refused {what} with {reply}", status, errors)

    def _document(self, what: str, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            raise RecordsAnswerUnusable(
                f"Rota did {what}, but its answer is no JSON of at most 32 MiB: "
                f"{self._masked(answer.decode(errors='replace'))[:EXCERPT_CHARACTERS]}"
            ) from None

    def _problem(self, answer: bytes) -> tuple[str, list[tuple[str, str]]]:
        """Return what a refusal says, and of which fields: RFC 9457, where it comes from Rota."""
        try:
            problem = _Problem.model_validate_json(answer)
        except ValidationError:
            return self._masked(answer.decode(errors="replace"))[:EXCERPT_CHARACTERS], []
        said = problem.detail
        errors = [(self._masked(one.field), self._masked(one.detail)) for one in problem.errors]
        lines = [f"{field}: {detail}" if field else detail for field, detail in errors]
        said = "; ".join([said, *(line for line in lines if line not in said)])
        return self._masked(said)[:PROBLEM_CHARACTERS], errors

    def _masked(self, text: str) -> str:
        # Some proxies repeat what they do not accept. No more than excerpts is shown of it.
        return Masking([self._token.get_secret_value()]).text(text[:LOOKED_AT])


class _Fault(BaseModel):
    field: str = ""
    detail: str = ""


class _Problem(BaseModel):
    detail: str
    errors: list[_Fault] = []


class _Page(BaseModel):
    items: list[dict[str, Any]]
    next: str | None


def _page(answer: Any, path: Sequence[str]) -> _Page:
    try:
        return _Page.model_validate(answer)
    except ValidationError:
        raise RecordsAnswerUnusable(
            f"Rota's answer to GET {'/'.join(path)} is no page of a list; it has no `items` that "
            "are objects, or no `next`."
        ) from None


def _log_setback(setback: Setback, tries: int, wait: float) -> None:
    logger(__name__).warning(
        "Rota failed try %d: %s; trying again in %.1f s.",
        tries,
        setback,
        wait,
        extra={"action": "records_retry"},
    )
