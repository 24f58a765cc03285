"""Calls to GitHub that share their connections, their credentials and what is known of limits.

PyGithub signs an App in, and knows how rate limits are worded. The requests go through httpx,
because PyGithub has no conditional ones, bounds neither the time nor the size of an answer, and
cannot be cancelled.
"""

import asyncio
import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from blocks.github_answers import (
    PAGE,
    GitHubAnswerUnusable,
    GitHubRefused,
    GitHubUnavailable,
    Installation,
    InstallationToken,
    Named,
    RepositoryPage,
    Tree,
    TreeFile,
    read_page,
)
from blocks.github_app import App
from blocks.outgoing import (
    EXCERPT_CHARACTERS,
    PASSING,
    Backoff,
    GaveUp,
    Setback,
    logger,
    path_part,
    persist,
    read,
    retry_after,
    told_time,
)

MAX_PAGE_BYTES = 4 << 20
MAX_ANSWER_BYTES = 16 << 20
MAX_FILE_BYTES = 1 << 20
RAW = "application/vnd.github.raw+json"
JSON = "application/vnd.github+json"

AT_ONCE = 4
"""Requests at one time; GitHub's secondary limits punish many."""

RESERVE = AT_ONCE - 1
"""Requests of the rate limit that are left unused, for those that are on their way."""

SECONDARY_LIMIT_SECONDS = 60.0
"""How long GitHub asks to wait after a rate limit that does not say how long."""

TOKEN_MARGIN_SECONDS = 300.0
"""How long before its end an installation's token is renewed."""

MASK = "**********"
TOKEN_CHARACTERS = 16
"""GitHub's tokens are longer. A shorter one is a word in a proxy's place, which texts may hold."""

REMEDIES = {
    401: ". See to the block's token, or to its app_id and private_key.",
    403: ". The block's credentials may not do that; give them leave to read.",
    404: ". There is no such thing, or the block's credentials may not see it.",
}

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes
    url: str
    said: str


class GitHubSession:
    """An organization's repositories and what is in them; `GitHub.connected` opens it.

    Calls are tried again when the connection breaks or is too slow, and after 5xx: after 1, 5, 10,
    20, 40, 60, 60... seconds, give or take a fifth, or after the answer's `Retry-After`. A rate
    limit is waited out: nothing is sent while GitHub says that none is left, or asks to wait. All
    calls give up at the session's deadline.

    Every call raises `ValueError` for a name that cannot stand in a path, `GitHubRefused`,
    `GitHubAnswerUnusable`, or `GitHubUnavailable`.

    Attributes:
        requests: How many requests were sent.

    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        organization: str,
        access: SecretStr | App,
        *,
        try_seconds: float,
        deadline_seconds: float,
        backoff: Backoff,
    ) -> None:
        self._client = client
        self._organization = organization
        self._access = access
        self._try_seconds = try_seconds
        self._deadline_seconds = deadline_seconds
        self._backoff = backoff
        self._ends = backoff.clock() + deadline_seconds
        self._free_at = backoff.clock()
        self._token = ""
        self._token_ends = backoff.clock()
        self._signing_in = asyncio.Lock()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.requests = 0

    async def repositories(self, number: int, etag: str | None = None) -> RepositoryPage | None:
        """Return a page of the organization's repositories, the oldest first.

        Args:
            number: Which page, from 1.
            etag: What an earlier answer for the same page gave.

        Returns:
            The page, or None if it has not changed since the answer that gave `etag`.

        """
        # By creation, because nothing that happens to a repository later moves it between pages.
        query = f"type=all&sort=created&direction=asc&per_page={PAGE}&page={number}"
        headers = {"If-None-Match": etag} if etag else {}
        target = f"/orgs/{self._organization}/repos?{query}"
        answer = await self._call(target, headers=headers, most_bytes=MAX_PAGE_BYTES)
        if answer.status == httpx.codes.NOT_MODIFIED and etag:
            return None
        found = await asyncio.to_thread(read_page, answer.body)
        if found is None:
            raise GitHubAnswerUnusable(
                f"GitHub's answer to GET {answer.url} is no list of at most {PAGE} repositories "
                f"and {MAX_PAGE_BYTES >> 20} MiB."
            )
        repositories, misfits = found
        for one in repositories:
            if not self._owns(one):
                raise GitHubAnswerUnusable(
                    f"GitHub listed {one.full_name!r} among the repositories of "
                    f"{self._organization!r}. If the organization was renamed, set the block's "
                    "organization to its new name."
                )
        links = answer.headers.get("Link", "")
        last = not re.search(r'rel="?next"?', links)
        return RepositoryPage(repositories, misfits, answer.headers.get("ETag"), last)

    async def has(self, repository_id: int) -> bool:
        """Return whether the organization has a repository of that number, and we may see it."""
        answer = await self._call(f"/repositories/{int(repository_id)}", may_lack=True)
        if answer.status == httpx.codes.NOT_FOUND:
            return False
        return self._owns(_read(Named, answer))

    async def file(
        self, repository: str, path: str, ref: str, most_bytes: int = MAX_FILE_BYTES
    ) -> bytes | None:
        """Return a file's content, or None where there is no file.

        Args:
            repository: The repository's full name, `organization/name`.
            path: The file's path from the repository's root, with `/`.
            ref: A branch, a tag or a commit.
            most_bytes: The largest size; a larger file is a `GitHubAnswerUnusable`.

        """
        parts = "/".join(path_part(part, "a file's name") for part in path.split("/"))
        return await self._content(repository, f"contents/{parts}", ref, most_bytes)

    async def readme(
        self, repository: str, ref: str, most_bytes: int = MAX_FILE_BYTES
    ) -> bytes | None:
        """Return the content of what GitHub takes for the README, or None; see `file`."""
        return await self._content(repository, "readme", ref, most_bytes)

    async def tree(self, repository: str, ref: str) -> list[TreeFile]:
        """Return all files of a repository; none if it is empty or has no such `ref`.

        Args:
            repository: The repository's full name, `organization/name`.
            ref: A branch, a tag or a commit.

        """
        where = f"/repos/{_full_name(repository)}/git/trees/{path_part(ref, 'a branch')}"
        answer = await self._call(f"{where}?recursive=1", may_lack=True)
        if not answer.body:
            return []
        tree = _read(Tree, answer)
        if tree.truncated:
            raise GitHubAnswerUnusable(
                f"{repository} has more files than GitHub lists at once (100,000, or 7 MB)."
            )
        return tree.files

    async def _content(self, repository: str, what: str, ref: str, most_bytes: int) -> bytes | None:
        where = f"/repos/{_full_name(repository)}/{what}?ref={path_part(ref, 'a branch')}"
        answer = await self._call(
            where, headers={"Accept": RAW}, most_bytes=most_bytes + 1, may_lack=True
        )
        # A directory or a submodule is described, in JSON; a JSON file has GitHub's own type.
        described = answer.headers.get("Content-Type", "").startswith("application/json")
        if answer.status == httpx.codes.NOT_FOUND or described:
            return None
        if len(answer.body) > most_bytes:
            raise GitHubAnswerUnusable(
                f"GitHub's answer to GET {answer.url} is larger than {most_bytes:,} bytes."
            )
        return answer.body

    def _owns(self, repository: Named) -> bool:
        return repository.owner.lower() == self._organization.lower()

    # -- one call

    async def _call(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        most_bytes: int = MAX_ANSWER_BYTES,
        may_lack: bool = False,
        as_app: bool = False,
    ) -> _Answer:
        url = str(self._client.base_url).rstrip("/") + target
        request = self._client.build_request(
            method, url, headers={"Accept": JSON, **(headers or {})}
        )
        left = self._ends - self._backoff.clock()
        if left <= 0:
            raise GitHubUnavailable(
                f"GitHub was not asked for {method} {url}: the {self._deadline_seconds:g} s that "
                "all calls may take together are over."
            )
        try:
            answer, _ = await persist(
                lambda left: self._try(request, left, most_bytes, as_app),
                left,
                self._backoff,
                _log_setback,
            )
        except GaveUp as gave_up:
            raise GitHubUnavailable(
                f"GitHub did not answer {method} {url}: {gave_up}"
            ) from gave_up.__cause__
        if answer.status < 300 or answer.status == httpx.codes.NOT_MODIFIED:
            return answer
        # 409 is how an empty repository says that it has no files.
        if may_lack and answer.status in (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT):
            return replace(answer, status=httpx.codes.NOT_FOUND, body=b"")
        remedy = REMEDIES.get(answer.status, "")
        raise GitHubRefused(
            f"GitHub refused {method} {url} with {answer.said}{remedy}", answer.status
        )

    async def _try(
        self, request: httpx.Request, left: float, most_bytes: int, as_app: bool
    ) -> _Answer:
        secret = await self._secret(as_app)
        request.headers["Authorization"] = f"Bearer {secret}"
        try:
            async with self._slots, asyncio.timeout(min(left, self._try_seconds)):
                # Here, because another call may have used the limit up while this one waited.
                self._keep_to_the_limit(as_app)
                self.requests += 1
                response = await self._client.send(request, stream=True)
                try:
                    body = await read(response, most_bytes)
                finally:
                    await response.aclose()
        except PASSING as error:
            # The error may hold what the answer's headers said.
            raise Setback(_masked(str(Setback.of(error)), secret)) from None
        said = _said(response, body, secret)
        if len(secret) >= TOKEN_CHARACTERS:
            body = body.replace(secret.encode(), MASK.encode())
        answer = _Answer(response.status_code, response.headers, body, str(request.url), said)
        self._note_the_limit(answer, as_app)
        if answer.status >= 500 or answer.status == httpx.codes.REQUEST_TIMEOUT:
            raise Setback(said, retry_after(answer.headers, at=datetime.now(UTC)))
        return answer

    # -- rate limits

    def _keep_to_the_limit(self, as_app: bool) -> None:
        wait = self._free_at - self._backoff.clock()
        if wait > 0 and not as_app:  # an App's own calls count elsewhere
            raise Setback("the rate limit is used up", wait)

    def _note_the_limit(self, answer: _Answer, as_app: bool) -> None:
        remaining = _number(answer.headers, "X-RateLimit-Remaining")
        if remaining is not None and remaining <= RESERVE and not as_app:
            self._free_at = self._backoff.clock() + _until_reset(answer.headers)
        wait = _asked_to_wait(answer)
        if wait is not None:
            self._free_at = max(self._free_at, self._backoff.clock() + wait)
            raise Setback(answer.said, wait)

    # -- credentials

    async def _secret(self, as_app: bool) -> str:
        if isinstance(self._access, SecretStr):
            return self._access.get_secret_value()
        if as_app:
            return await asyncio.to_thread(self._access.assertion)
        async with self._signing_in:
            if self._backoff.clock() >= self._token_ends:
                await self._sign_in(self._access)
        return self._token

    async def _sign_in(self, app: App) -> None:
        number = app.installation_id or await self._installation()
        target = f"/app/installations/{number}/access_tokens"
        answer = await self._call(target, method="POST", as_app=True)
        given = _read(InstallationToken, answer)
        lifetime = (
            given.expires_at - told_time(answer.headers, at=datetime.now(UTC))
        ).total_seconds()
        self._token = given.token
        self._token_ends = self._backoff.clock() + max(lifetime - TOKEN_MARGIN_SECONDS, 1)

    async def _installation(self) -> int:
        target = f"/orgs/{self._organization}/installation"
        return _read(Installation, await self._call(target, as_app=True)).id


def _asked_to_wait(answer: _Answer) -> float | None:
    """Return the seconds to wait before anything else is sent, or None if no limit was met."""
    if answer.status not in (httpx.codes.FORBIDDEN, httpx.codes.TOO_MANY_REQUESTS):
        return None
    asked = retry_after(answer.headers, at=datetime.now(UTC))
    if asked is not None:
        return asked
    if _number(answer.headers, "X-RateLimit-Remaining") == 0:
        return _until_reset(answer.headers)
    from github.Requester import Requester  # slow to import

    limited = answer.status == httpx.codes.TOO_MANY_REQUESTS
    if limited or Requester.isRateLimitError(_message(answer.body) or ""):
        return SECONDARY_LIMIT_SECONDS
    return None


def _until_reset(headers: httpx.Headers) -> float:
    reset = _number(headers, "X-RateLimit-Reset")
    if reset is None:
        return SECONDARY_LIMIT_SECONDS
    # One more, because it is not said when within its second the limit is set back.
    return max(0.0, reset - told_time(headers, at=datetime.now(UTC)).timestamp()) + 1


def _number(headers: httpx.Headers, name: str) -> float | None:
    value = headers.get(name, "").strip()
    return float(value) if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", value) else None


def _full_name(repository: str) -> str:
    owner, _, name = repository.partition("/")
    if "/" in name:
        raise ValueError(f"{repository!r} is not a repository's full name that a path can hold.")
    return f"{path_part(owner, 'an owner')}/{path_part(name, 'a repository')}"


def _read(model: type[M], answer: _Answer) -> M:
    try:
        return model.model_validate_json(answer.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise GitHubAnswerUnusable(
            f"GitHub's answer to {answer.url} does not fit: {where}: {first['msg']}."
        ) from None


def _message(body: bytes) -> str | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    message = document.get("message") if isinstance(document, dict) else None
    return message if isinstance(message, str) else None


def _said(response: httpx.Response, body: bytes, secret: str) -> str:
    """Return an answer's status and message for errors and logs."""
    status = f"{response.status_code} {response.reason_phrase}".strip()
    if response.is_success:
        return status
    said = _message(body) or body.decode(errors="replace")
    if response.has_redirect_location:
        said = f"it leads to {response.headers['Location']}, and is not followed"
    return _masked(f"{status}: {said}" if said else status, secret)


def _masked(text: str, secret: str) -> str:
    """Return a text's beginning; some proxies repeat the credentials that they do not accept."""
    return text.replace(secret, MASK)[:EXCERPT_CHARACTERS]


def _log_setback(setback: Setback, tries: int, wait: float) -> None:
    logger(__name__).warning(
        "GitHub failed try %d: %s; trying again in %.1f s.",
        tries,
        setback,
        wait,
        extra={"action": "github_retry"},
    )
