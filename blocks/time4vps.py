"""Time4VPS, a provider of virtual servers."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Annotated, Any

import httpx
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    ValidationError,
)

from blocks.outgoing import (
    BACKOFF,
    EXCERPT_CHARACTERS,
    PASSING,
    Address,
    Backoff,
    GaveUp,
    Setback,
    logger,
    persist,
    read,
    retry_after,
    tls,
)
from blocks.vps import (
    Listing,
    Name,
    ProviderAnswerUnusable,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    Server,
    VPSProvider,
)

MAX_ANSWER_BYTES = 8 << 20
MOST_SERVERS = 10_000
"""Entries of a list; an account that has more is none of ours."""

EXAMINED_CHARACTERS = 64 << 10
"""So much of a text is searched for secrets before it is cut: in 8 MiB it could take a minute."""

AT_ONCE = 8
"""Requests at the same time."""

HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")

REMEDIES = {
    "wronglogin": "Correct the block's username and password.",
    "ipnotallowed": "Allow this machine's address in Time4VPS's client area.",
}
"""What to do about refusals, by their names."""


class Time4VPS(VPSProvider):
    """Reads the servers of an account at Time4VPS.

    Attributes:
        provider: What the provider is called in the records; two accounts have two names.
        base_url: The address of Time4VPS's API, `http` or `https`, without credentials.
        username: The login of the client area, an e-mail address.
        password: The password of the client area.
        connect_seconds: How long to wait for a connection, in seconds.
        answer_seconds: How long to wait for one whole answer, in seconds.
        deadline_seconds: When to give up, in seconds from the beginning; the list and all details
            share this time.

    Example:
        Load a stored account and list its servers:
        ```python
        from blocks import Time4VPS

        account = Time4VPS.load("BLOCK_NAME")
        listing = await account.servers()
        print([server.host for server in listing.servers])
        ```

    """

    _block_type_name = "Time4VPS"
    _block_type_slug = "time4vps"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9"
        "/assets/block-logos/webhook.png"
    )
    _documentation_url = HttpUrl("https://billing.time4vps.com/userapi")

    # A bad password must not be repeated in the error that says so.
    model_config = ConfigDict(hide_input_in_errors=True)

    provider: Name = Field(
        default="time4vps",
        description="What the provider is called in the records; two accounts have two names.",
    )
    base_url: Address = Field(
        default=HttpUrl("https://billing.time4vps.com/api"),
        title="Base URL",
        description="The address of Time4VPS's API.",
    )
    username: SecretStr = Field(
        min_length=1, description="The login of the client area, an e-mail address."
    )
    password: SecretStr = Field(min_length=1, description="The password of the client area.")
    connect_seconds: float = Field(
        default=5, gt=0, description="How long to wait for a connection, in seconds."
    )
    answer_seconds: float = Field(
        default=30, gt=0, description="How long to wait for one whole answer, in seconds."
    )
    deadline_seconds: float = Field(
        default=300,
        gt=0,
        description="When to give up, in seconds; the list and all details share this time.",
    )

    async def servers(self, *, backoff: Backoff = BACKOFF) -> Listing:
        """Return all servers of the account, with their details where those can be read.

        A broken or slow connection, 429 and 5xx are tried again after 1, 5, 10, 20, 40, 60, 60...
        seconds, give or take a fifth, or after the answer's `Retry-After`. A 401 that asks to wait
        is no refusal: all requests wait for as long as it says.

        Args:
            backoff: When to try again.

        Raises:
            ProviderRefused: Time4VPS answered 4xx or 3xx to the request for the list.
            ProviderAnswerUnusable: Its answer is no list.
            ProviderUnavailable: The deadline came before a usable list.

        """
        async with self._opened(backoff) as calls:
            answer = await calls.get("server")
            if not isinstance(answer, list):
                raise ProviderAnswerUnusable(
                    f"Time4VPS's answer to GET {calls.url}/server is no list: "
                    f"{calls.excerpt(json.dumps(answer))}"
                )
            if len(answer) > MOST_SERVERS:
                raise ProviderAnswerUnusable(
                    f"Time4VPS's answer to GET {calls.url}/server has {len(answer):,} entries; at "
                    f"most {MOST_SERVERS:,} are read."
                )
            # Of thousands it takes a second, in which no other flow would run.
            found = await asyncio.to_thread(_sorted_out, calls, answer)
            details, failures = await _details(calls, list(found.fit))
        servers = [_server(entry, details.get(number)) for number, entry in found.fit.items()]
        return Listing(tuple(servers), found.unfit, tuple(found.unreadable), failures)

    @asynccontextmanager
    async def _opened(self, backoff: Backoff) -> AsyncIterator["_Calls"]:
        login = self.username.get_secret_value(), self.password.get_secret_value()
        async with httpx.AsyncClient(
            verify=tls(),
            timeout=httpx.Timeout(self.answer_seconds, connect=self.connect_seconds),
            auth=httpx.BasicAuth(*login),
            # Only what is sent is counted against the size limit, so nothing may be packed.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            # A proxy sees nothing of what goes through it to https, but all of what goes to http.
            trust_env=self.base_url.scheme == "https",
        ) as client:
            packed = base64.b64encode(":".join(login).encode()).decode()
            secrets = packed, *sorted(login, key=len, reverse=True)
            yield _Calls(
                client,
                str(self.base_url).rstrip("/"),
                [_written(one) for one in secrets],
                self.answer_seconds,
                backoff,
                until=backoff.clock() + self.deadline_seconds,
            )


@dataclass
class _Calls:
    """Requests that share their connections, their deadline, and the waits they are asked for.

    Attributes:
        url: The address of the API.
        secrets: What must not be repeated, the longest first, however JSON may write it.
        answer_seconds: How long to wait for one whole answer.
        until: When to give up, by the clock of `backoff`.
        held_until: Until when the provider wants no request, by the same clock.

    """

    client: httpx.AsyncClient
    url: str
    secrets: Sequence[re.Pattern[str]]
    answer_seconds: float
    backoff: Backoff
    until: float
    held_until: float = float("-inf")

    async def get(self, path: str) -> Any:
        """Return what JSON stands at a path."""
        what = f"GET {self.url}/{path}"
        left = self.until - self.backoff.clock()
        if left <= 0:
            raise ProviderUnavailable(f"Time4VPS was not asked {what}; the time was over.")

        async def attempt(left: float) -> Any:
            waited = await self._hold(left)
            return await self._try(path, min(left - waited, self.answer_seconds))

        try:
            answer, _ = await persist(attempt, left, self.backoff, _log_setback)
        except GaveUp as gave_up:
            raise ProviderUnavailable(
                f"Time4VPS did not answer {what}, {gave_up}"
            ) from gave_up.__cause__
        return answer

    async def _hold(self, left: float) -> float:
        """Wait until the provider wants requests again; return the seconds."""
        began = self.backoff.clock()
        while (wait := self.held_until - self.backoff.clock()) > 0:
            if wait >= left:
                raise Setback("It asked to wait.", wait)
            await self.backoff.sleep(wait)
        return self.backoff.clock() - began

    async def _try(self, path: str, within: float) -> Any:
        url = f"{self.url}/{path}"
        try:
            async with asyncio.timeout(within), self.client.stream("GET", url) as response:
                answer = await read(response, MAX_ANSWER_BYTES)
        except PASSING as error:
            # The error may hold what the answer's headers said.
            raise Setback(self.excerpt(str(Setback.of(error)))) from None
        status = response.status_code
        if response.is_success:
            return self._document(url, answer, status)
        reply = f"{status} {response.reason_phrase}".strip()
        said = self.excerpt(f"{reply}: {answer.decode(errors='replace')}".removesuffix(": "))
        asked = _wait_asked_for(answer) if status == httpx.codes.UNAUTHORIZED else None
        if asked is not None:
            self.held_until = max(self.held_until, self.backoff.clock() + asked)
            raise Setback(said, asked)
        if status == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            raise Setback(said, retry_after(response.headers, at=datetime.now(UTC)))
        remedies = " ".join(text for name, text in REMEDIES.items() if name in _errors(answer))
        raise ProviderRefused(f"Time4VPS refused GET {url} with {said} {remedies}".strip(), status)

    def _document(self, url: str, answer: bytes, status: int) -> Any:
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            raise ProviderAnswerUnusable(
                f"Time4VPS's answer to GET {url} is no JSON of at most 8 MiB: "
                f"{self.excerpt(answer.decode(errors='replace'))}",
                status,
            ) from None

    def excerpt(self, text: str) -> str:
        """Return a text's beginning without secrets; some proxies repeat what they refuse."""
        text = text[:EXAMINED_CHARACTERS]
        for secret in self.secrets:
            text = secret.sub("**********", text)
        return text[:EXCERPT_CHARACTERS]


def _written(secret: str) -> re.Pattern[str]:
    """Return what finds a secret in a text, be it as it is or as JSON may write it."""
    # No character can be read in two ways, or a text that nearly repeats a secret takes for ever.
    return re.compile(f"{''.join(map(_in_json, secret))}|{re.escape(secret)}")


def _in_json(one: str) -> str:
    digits = one.encode("utf-16-be", "surrogatepass").hex()
    code = "".join(rf"\\u(?i:{digits[at : at + 4]})" for at in range(0, len(digits), 4))
    # Any may stand as its code, some have to stand after a backslash, and a slash may.
    short = json.dumps(one, ensure_ascii=False)[1:-1]
    return rf"(?:{code}|\\?/)" if one == "/" else f"(?:{code}|{re.escape(short)})"


def _log_setback(setback: Setback, tries: int, wait: float) -> None:
    logger(__name__).warning(
        "Time4VPS failed try %d: %s; trying again in %.1f s.",
        tries,
        setback,
        wait,
        extra={"action": "vps_retry"},
    )


# -- what Time4VPS answers


def _listed(value: Any) -> Any:
    return value or []


def _address(value: str) -> str:
    # A zone such as `%eth0` says something on one machine only.
    if "%" in value:
        raise ValueError("An address has no zone.")
    try:
        return str(ip_address(value))
    except ValueError:  # whose text repeats the value
        raise ValueError("It is no address of IPv4 or IPv6.") from None


IP = Annotated[str, AfterValidator(_address)]
Amount = Annotated[float, Field(ge=0, le=2**31 - 1, allow_inf_nan=False)]
Words = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Identity(BaseModel):
    # Both names occur.
    id: int = Field(gt=0, lt=2**63, validation_alias=AliasChoices("server_id", "id"))


class _Entry(_Identity):
    ip: IP
    domain: str | None = None
    status: Words | None = None


class _Details(BaseModel):
    status: Words | None = None
    os: Words | None = None
    additional_ip: Annotated[list[IP], BeforeValidator(_listed), Field(max_length=99)] = []
    cpu_cores: Amount | None = None
    ram_limit: Amount | None = None
    ram_used: Amount | None = None
    disk_limit: Amount | None = None
    disk_usage: Amount | None = None


@dataclass
class _Found:
    fit: dict[str, _Entry] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def _sorted_out(calls: _Calls, entries: Sequence[Any]) -> _Found:
    found = _Found()
    for position, entry in enumerate(entries):
        try:
            number = str(_Identity.model_validate(entry).id)
        except ValidationError as error:
            found.unreadable.append(calls.excerpt(f"entry {position}: {_faults(error)}"))
            continue
        try:
            found.fit.setdefault(number, _Entry.model_validate(entry))
        except ValidationError as error:
            found.unfit[number] = calls.excerpt(_faults(error))
    # Of two entries for one server, one that fits is enough.
    found.unfit = {number: why for number, why in found.unfit.items() if number not in found.fit}
    return found


async def _details(
    calls: _Calls, numbers: Sequence[str]
) -> tuple[dict[str, _Details], dict[str, str]]:
    """Read the details of servers; return them, and what went wrong with the others."""
    details: dict[str, _Details] = {}
    failures: dict[str, str] = {}
    left = iter(numbers)

    async def some() -> None:
        for number in left:
            try:
                details[number] = _Details.model_validate(await calls.get(f"server/{number}"))
            except ValidationError as error:
                failures[number] = calls.excerpt(_faults(error))
            except ProviderError as error:
                failures[number] = str(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())
    return details, failures


def _server(entry: _Entry, details: _Details | None) -> Server:
    name = entry.domain or ""
    known = details or _Details()
    return Server(
        provider_id=str(entry.id),
        public_ip=entry.ip,
        host=name if HOST_NAME.fullmatch(name) else entry.ip,
        addresses=tuple(dict.fromkeys([entry.ip, *known.additional_ip])) if details else None,
        provider_status=known.status or entry.status,
        os_template=known.os,
        capacity_cpu=_whole(known.cpu_cores),
        capacity_ram_mb=_whole(known.ram_limit),
        capacity_disk_mb=_whole(known.disk_limit),
        used_ram_mb=_whole(known.ram_used),
        used_disk_mb=_whole(known.disk_usage),
    )


def _whole(amount: float | None) -> int | None:
    return None if amount is None else round(amount)


def _faults(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        ": ".join(filter(None, [".".join(map(str, one["loc"])), one["msg"]])) for one in found[:5]
    )


def _errors(answer: bytes) -> list[Any]:
    """Return the names in an answer such as `{"error": ["wronglogin"]}`."""
    try:
        errors = json.loads(answer)["error"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return []
    return errors if isinstance(errors, list) else []


def _wait_asked_for(answer: bytes) -> float | None:
    """Return the seconds of `{"error": [["wait_x_between_action", 24], "unauthorized"]}`."""
    for one in _errors(answer):
        match one:
            case ["wait_x_between_action", int() | float() as seconds] if 0 <= seconds < 1e6:
                return float(seconds)
            case ["wait_x_between_action", *_] | "wait_x_between_action":
                return 0.0
    return None
