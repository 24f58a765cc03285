"""HTTP to addresses that somebody else names: bounded, and kept out of private networks.

CallError
├── CallRefused     it leads where it must not, or cannot be sent; another try would end the same
└── CallFailed      no answer, or none that is within the bounds
"""

import asyncio
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpcore
import httpx

from blocks.addresses import Allowed
from blocks.outgoing import tls

MOST_BYTES = 1 << 20
"""Of a response's body, unpacked."""
MOST_REDIRECTS = 5
CONNECT_SECONDS = 10.0

SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Headers that are for one host only, beside those that the caller names."""

_REDIRECTS = (301, 302, 303, 307, 308)
_UNSAFE = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade"})

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Gives the addresses of a host, for a port."""


class CallError(Exception):
    """A request has not been answered."""


class CallRefused(CallError):
    """A request is not sent, or not followed: it leads where it must not."""


class CallFailed(CallError):
    """A request has found no answer, or none that is within the bounds."""


@dataclass(frozen=True)
class Request:
    """What to send.

    Attributes:
        method: The method.
        url: Of http or https, without user and password.
        headers: What to send beside what every request has.
        content: The body.
        secret: Names of headers, in lower case, that no other host may see.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    secret: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: The HTTP status.
        headers: By their names in lower case.
        content: The body, unpacked.
        url: Where it came from at last, without its query, which may hold secrets.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    url: str


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses that this machine knows of a host."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True)
class Guard:
    """Calls public addresses, and those that are allowed.

    The address is looked up once for each connection, and it is that one which is checked and
    connected to: a name that leads elsewhere a moment later gains nothing by it. Certificates are
    checked for the name. Proxies of the environment are not used: they would look it up again.

    Attributes:
        allowed: What may be called beside the public addresses.
        resolve: What looks names up.
        tls: What certificates are checked with.
        most_bytes: The largest body of a response.
    """

    allowed: Allowed = field(default_factory=Allowed)
    resolve: Resolve = resolve
    tls: Callable[[], ssl.SSLContext] = tls
    most_bytes: int = MOST_BYTES

    async def call(self, request: Request, within: float) -> Answer:
        """Send a request, follow it where it leads, and return what came back.

        Args:
            request: What to send.
            within: A limit for all of it, in seconds.

        Raises:
            CallRefused: It leads where it must not.
            CallFailed: There was no answer in time, or it is too large, or leads on too often.
        """
        try:
            async with asyncio.timeout(within):
                return await self._followed(request)
        except TimeoutError:
            raise CallFailed(f"{_named(request)} had no answer within {within:g} s") from None

    async def _followed(self, request: Request) -> Answer:
        for _ in range(MOST_REDIRECTS + 1):
            answer = await self._once(request)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            request = _redirected(request, answer.status, location)
        raise CallFailed(f"{_named(request)} leads on after {MOST_REDIRECTS} redirects")

    async def _once(self, request: Request) -> Answer:
        url = _checked(request.url)
        what = _named(request)
        backend = _GuardedBackend(self.allowed, self.resolve)
        limits = {"connect": CONNECT_SECONDS}
        try:
            async with (
                httpcore.AsyncConnectionPool(
                    ssl_context=self.tls(), network_backend=backend
                ) as pool,
                pool.stream(
                    request.method,
                    httpcore.URL(
                        scheme=url.raw_scheme,
                        host=url.raw_host,
                        port=url.port,
                        target=url.raw_path,
                    ),
                    headers=_headers(request, url),
                    content=request.content,
                    extensions={"timeout": limits},
                ) as response,
            ):
                headers = _read_headers(response.headers)
                content = await self._read(response, headers, what)
        except httpcore.TimeoutException as error:
            raise CallFailed(
                f"{what} could not be connected within {CONNECT_SECONDS:g} s"
            ) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise CallFailed(
                f"{what} failed: {type(error).__name__}: {error}".rstrip(": ")
            ) from error
        return Answer(response.status, headers, content, what.partition(" ")[2])

    async def _read(
        self, response: httpcore.Response, headers: Mapping[str, str], what: str
    ) -> bytes:
        packed = headers.get("content-encoding", "identity").strip().lower()
        if packed not in ("identity", "gzip", "x-gzip", "deflate"):
            raise CallFailed(f"{what} answered packed as {packed!r:.40}, which was not asked for")
        unpack = None if packed == "identity" else zlib.decompressobj(47)
        found = bytearray()
        async for chunk in response.aiter_stream():
            left = self.most_bytes + 1 - len(found)
            try:
                found += chunk if unpack is None else unpack.decompress(chunk, left)
            except zlib.error:
                raise CallFailed(f"{what} answered what cannot be unpacked") from None
            if len(found) > self.most_bytes:
                raise CallFailed(f"{what} answered with more than {self.most_bytes:,} bytes")
        return bytes(found)


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that may be called, and no others."""

    def __init__(self, allowed: Allowed, resolve: Resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore calls it so
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            known = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise CallFailed(f"The host {host!r} is not known") from None
        addresses = self._allowed.fitting(host, known)
        if not addresses:
            raise CallRefused(
                f"The host {host!r} leads to no public address, and is not called; an "
                "administrator can allow it at /allowed-addresses"
            )
        error: Exception = CallFailed(f"The host {host!r} has no address")
        for one in addresses:
            try:
                return await self._inner.connect_tcp(one, port, timeout, local_address, None)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                error = failed
        raise error

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore calls it so
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise CallRefused("A socket of this machine is not called")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def _checked(url: str) -> httpx.URL:
    """Return an address with all its parts quoted as HTTP wants them."""
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise CallRefused(f"The address cannot be read: {error}") from None
    if found.scheme not in ("http", "https") or not found.host:
        raise CallRefused("The address is none of http or https, and is not called")
    if found.userinfo:
        raise CallRefused("The address holds a user or a password; send it in a header")
    return found


def _headers(request: Request, url: httpx.URL) -> list[tuple[bytes, bytes]]:
    given = {name.lower(): value for name, value in request.headers.items()}
    if taken := sorted(given.keys() & _UNSAFE):
        raise CallRefused(f"The header {taken[0]!r} is set by Rota; leave it out")
    own = {
        "host": url.netloc.decode(),
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": "Rota",
        "connection": "close",
    }
    if request.content or request.method in ("POST", "PUT", "PATCH"):
        own["content-length"] = str(len(request.content))
    return [(name.encode(), value.encode("latin-1")) for name, value in {**own, **given}.items()]


def _read_headers(said: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in said:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _redirected(request: Request, status: int, location: str) -> Request:
    """Return what is sent next, as browsers do; secrets stay with the host that they are for."""
    try:
        url = urljoin(request.url, location)
        before, after = urlsplit(request.url), urlsplit(url)
    except ValueError:
        raise CallRefused(f"{_named(request)} leads to an address that cannot be read") from None
    headers, method, content = dict(request.headers), request.method, request.content
    if status == 303 or (status in (301, 302) and method == "POST"):
        method, content = ("HEAD" if method == "HEAD" else "GET"), b""
        headers = {one: said for one, said in headers.items() if one.lower() != "content-type"}
    if (before.scheme, before.netloc) != (after.scheme, after.netloc):
        hidden = SECRET_HEADERS | request.secret
        headers = {one: said for one, said in headers.items() if one.lower() not in hidden}
    return Request(method, url, headers, content, request.secret)


def _named(request: Request) -> str:
    """Return how errors name a request: without the query, which may hold secrets."""
    parts = urlsplit(request.url)
    host = parts.netloc.rpartition("@")[2]
    return f"{request.method} {urlunsplit((parts.scheme, host, parts.path, '', ''))}"
