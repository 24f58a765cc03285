"""What a call to an outside service goes by: its address, its token, its limits, another try."""

import asyncio
import functools
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, TypeVar
from urllib.parse import quote

import httpx
from prefect.blocks.abstract import LoggerOrAdapter
from prefect.exceptions import MissingContextError
from prefect.logging.loggers import get_logger, get_run_logger
from pydantic import AfterValidator, HttpUrl, SecretStr

EXCERPT_CHARACTERS = 254
DELAYS_SECONDS = (1.0, 5.0, 10.0, 20.0, 40.0, 60.0)
LAST_TRY_SECONDS = 5.0

PASSING = (
    TimeoutError,
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
)
"""Errors of a try that may have passed by the next."""

T = TypeVar("T")

_random = random.SystemRandom()


def _holds_an_address_only(url: HttpUrl) -> HttpUrl:
    # The address appears in errors and logs, so nothing secret may be in it.
    if url.username or url.password:
        raise ValueError("The address must not hold a user or a password; use the token.")
    if url.query is not None or url.fragment is not None:
        raise ValueError("The address must end with its path, before any `?` or `#`.")
    return url


Address = Annotated[HttpUrl, AfterValidator(_holds_an_address_only)]
"""Where a service is, `http` or `https`, without credentials."""


def fits_into_a_header(token: SecretStr) -> SecretStr:
    """Return a token that can be sent as `Authorization: Bearer`.

    A field calls it in a validator of its own: of a type that is annotated, Prefect does not see
    that it is secret.

    Raises:
        ValueError: A header cannot hold it.

    """
    if not re.fullmatch(r"[\x21-\x7e]+", token.get_secret_value()):
        raise ValueError("The token must be visible ASCII, without spaces and line ends.")
    return token


def check_idempotency_key(key: str) -> str:
    """Return a key that tells a service that two requests are one.

    Raises:
        ValueError: A header cannot hold it.

    """
    if not re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", key):
        raise ValueError("The idempotency key must be printable ASCII.")
    return key


def path_part(value: str, what: str) -> str:
    """Return a value as one part of a path, which it cannot leave.

    Args:
        value: What may come from outside.
        what: What it is, with its article, for the error.

    Raises:
        ValueError: A path cannot hold it.

    """
    # Quoting alone is not enough: proxies exist that undo it before they resolve the dots.
    if not value.strip() or {".", ".."} & set(re.split(r"[/\\]", value)):
        raise ValueError(f"{value!r} is not {what} that a path can hold.")
    return quote(value, safe="")


class GaveUp(Exception):
    """The deadline came first; says how many tries there were, and what the last one met."""


class Setback(Exception):
    """One try failed in a way that may have passed by the next.

    Attributes:
        retry_after: Seconds that the service asked to wait for, if it did.

    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: Exception) -> "Setback":
        """Return what one of `PASSING` means; a timeout has no text of its own."""
        return cls(f"{type(error).__name__}: {error}".rstrip(": "))


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


async def persist(
    attempt: Callable[[float], Awaitable[T]],
    deadline_seconds: float,
    backoff: Backoff,
    note: Callable[[Setback, int, float], None],
) -> tuple[T, int]:
    """Call `attempt` until it meets no setback; return what it does, and the number of tries.

    Args:
        attempt: One try, which is told the seconds that are left.
        deadline_seconds: When to give up, in seconds from now.
        backoff: When to try again.
        note: Is told each setback that is not the last, the tries so far and the seconds until
            the next.

    Raises:
        ValueError: The deadline has come already.
        GaveUp: It came after the tries; its cause is that of the last setback.

    """
    if deadline_seconds <= 0:
        raise ValueError("The deadline must be more than 0 seconds away.")
    began, tries = backoff.clock(), 0
    while True:
        tries += 1
        left = deadline_seconds - (backoff.clock() - began)
        try:
            return await attempt(left), tries
        except Setback as setback:
            spent = backoff.clock() - began
            wait = backoff.wait(tries, deadline_seconds - spent, setback.retry_after)
            if wait is None:
                times = f"{tries} {'try' if tries == 1 else 'tries'}"
                raise GaveUp(
                    f"{times} in {spent:.1f} s. The last answer: {setback}"
                ) from setback.__cause__
            note(setback, tries, wait)
        await backoff.sleep(wait)


@functools.cache
def tls() -> ssl.SSLContext:
    """Return what certificates are checked with.

    Reading them takes tens of milliseconds, in which no other flow would run.
    """
    return httpx.create_ssl_context()


async def read(response: httpx.Response, most_bytes: int) -> bytes:
    """Read an answer as it was sent, up to a limit; the rest is left unread."""
    answer = bytearray()
    async for chunk in response.aiter_raw():
        answer += chunk
        if len(answer) >= most_bytes:
            break
    return bytes(answer[:most_bytes])


def retry_after(headers: httpx.Headers, at: datetime) -> float | None:
    """Read `Retry-After`, in seconds: a number or a date (RFC 9110, 10.2.3), else None."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", value):
        return float(value)
    until = _http_date(value)
    if until is None:
        return None
    # Measured by the service's clock, because the date was written by that one.
    return max(0.0, (until - told_time(headers, at)).total_seconds())


def told_time(headers: httpx.Headers, at: datetime) -> datetime:
    """Return the time by the service's clock, by which it also writes its dates; else `at`."""
    return _http_date(headers.get("Date", "")) or at


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def logger(name: str) -> LoggerOrAdapter:
    """Return the run's logger, whose lines Prefect shows at the run, or a plain one."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger(name)
