"""Servers over SSH: one connection, one command, and whose fault it is where that fails.

SSHError
├── SSHUnusable             the block's own values cannot be used; nothing was tried
├── HostDown                the host refused, broke off, or did not answer
└── HostUnknown             credentials, network or configuration on this side; nothing is
    │                       known about the host
    └── HostKeyChanged      it shows another key than the one that is known
"""

import asyncio
import errno
import re
import socket
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import asyncssh

if TYPE_CHECKING:
    from blocks.ssh import SSHAccess

MOST_BYTES = 256 << 10
"""More of a command's output is not read."""

MOST_TRUSTED_BYTES = 500 << 10
"""Of keys that are trusted on first use, no more are: a checkpoint takes 512 KiB."""

REASON_CHARACTERS = 200

# How a key's type is asked for; an RSA key has signatures of several forms.
ALGORITHMS = {
    "ssh-ed25519": ["ssh-ed25519"],
    "ecdsa-sha2-nistp256": ["ecdsa-sha2-nistp256"],
    "ecdsa-sha2-nistp384": ["ecdsa-sha2-nistp384"],
    "ecdsa-sha2-nistp521": ["ecdsa-sha2-nistp521"],
    "ssh-rsa": ["rsa-sha2-512", "rsa-sha2-256"],
}

OURS = frozenset(
    {
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EACCES,
        errno.EPERM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
    }
)
"""Errors of a connection that are this machine's own, or its network's."""


UNRESOLVED = re.compile(
    "name resolution|name or service not known|no address associated", re.IGNORECASE
)
"""What OpenSSH says of a name that it cannot look up, by its system's words."""


class SSHError(Exception):
    """A command was not carried out on a host."""


class SSHUnusable(SSHError):
    """The block's own values cannot be used; nothing was tried."""


class HostDown(SSHError):
    """The host refused the connection, broke it off, or did not answer."""


class HostUnknown(SSHError):
    """Something on this side is at fault, so nothing is known about the host."""


class HostKeyChanged(HostUnknown):
    """The host shows another key than the one that is known: a new machine, or somebody else's."""


@dataclass(frozen=True)
class Host:
    """Where to log in.

    Attributes:
        address: An IP address, or a name that is looked up.
        port: The port of its SSH server.
        username: Whom to log in as; None for the block's user.
        name: What else known hosts may list it under.

    """

    address: str
    port: int = 22
    username: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Answer:
    """What a command has printed.

    Attributes:
        output: Its standard output, the first 256 KiB of it.
        whole: Whether that is all of it.
        status: How it ended; None if a signal ended it, or if `whole` is false.
        sent_at: When it was sent, by our clock, UTC and aware.
        first_seconds: How long its first output took from then.

    """

    output: bytes
    whole: bool
    status: int | None
    sent_at: datetime
    first_seconds: float


def weight(keys: Mapping[str, str]) -> int:
    """Return how many bytes keys, by address and port, take as JSON."""
    return sum(len(place) + len(key) + len('"": "", ') for place, key in keys.items())


class Hosts:
    """Runs commands on hosts, with a connection for each; `SSHAccess.opened` makes it.

    Attributes:
        learned: The keys that were trusted because they were seen for the first time: what they
            are, by address and port.
        left_out: Where a key was not trusted for want of room, by address and port.
        tunnel: The connection that leads to the hosts, if there is one.

    """

    def __init__(
        self, access: "SSHAccess", trusted: Mapping[str, str], clock: Callable[[], datetime]
    ) -> None:
        self._access = access
        self._known = _known_hosts(access.known_hosts)
        self._on_first_use = access.host_keys == "trust-on-first-use"
        self._trusted = dict(trusted) if self._on_first_use else {}
        self._clock = clock
        self._options = asyncssh.SSHClientConnectionOptions(
            config=None,
            client_keys=[_private_key(access)],
            agent_path=None,
            agent_forwarding=False,
            public_key_auth=True,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_auth=False,
            gss_kex=False,
            x509_trusted_certs=None,
            compression_algs=None,
            # The time that connecting may take is held from outside, from its very beginning.
            login_timeout=0,
        )
        self.learned: dict[str, str] = {}
        self.left_out: set[str] = set()
        self._room = MOST_TRUSTED_BYTES - weight(self._trusted)
        self.tunnel: asyncssh.SSHClientConnection | None = None

    async def run(self, host: Host, command: str) -> Answer:
        """Log in, run a command and read what it prints, up to 256 KiB.

        Args:
            host: Where.
            command: What the host's login shell is given. Nothing from outside may be in it.

        Raises:
            HostDown: The host refused, broke off, or did not answer in time.
            HostUnknown: The fault is on this side.

        """
        async with self.connected(host) as connection:
            seconds = self._access.command_seconds
            try:
                async with asyncio.timeout(seconds):
                    return await self._ask(connection, command)
            except TimeoutError:
                raise HostDown(
                    f"The login succeeds, but the command does not end within {seconds:g} s."
                ) from None
            except asyncssh.ChannelOpenError as error:
                raise HostUnknown(
                    f"The login succeeds, but no command may be run: {_plain(error)}."
                ) from error
            except (asyncssh.Error, OSError) as error:
                self._see_to_the_tunnel()
                raise HostDown(f"It broke off during the command: {_plain(error)}.") from error

    @asynccontextmanager
    async def connected(self, host: Host) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """Yield a connection to a host; it has been closed when this ends, also if cancelled."""
        guard = self._guard(host)
        seconds = self._access.connect_seconds
        addresses = await self._addresses(host)
        try:
            async with asyncio.timeout(seconds):
                connection = await self._connect(host, addresses, guard)
        except TimeoutError:
            self._see_to_the_tunnel()
            raise HostDown(f"It does not let us in within {seconds:g} s.") from None
        except (asyncssh.Error, OSError) as error:
            self._see_to_the_tunnel()
            raise _meaning(error, guard) from error
        try:
            yield connection
        finally:
            connection.close()
            await connection.wait_closed()

    async def _addresses(self, host: Host) -> list[str]:
        """Return where a host is; behind a jump host it is that one that knows.

        A name that is not there is as much a fault of the records as a resolver that is away.
        """
        if self.tunnel is not None or _is_numeric(host.address):
            return [host.address]
        seconds, loop = self._access.connect_seconds, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                found = await loop.getaddrinfo(
                    host.address, host.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
                )
        except TimeoutError:
            raise HostUnknown(f"Its name is not resolved within {seconds:g} s.") from None
        except (OSError, UnicodeError) as error:
            raise HostUnknown(f"Its name does not resolve: {_plain(error)}.") from error
        return list(dict.fromkeys(str(info[4][0]) for info in found))

    async def _connect(
        self, host: Host, addresses: list[str], guard: "_Guard"
    ) -> asyncssh.SSHClientConnection:
        *others, last = addresses
        for address in others:
            try:
                return await self._connect_to(address, host, guard)
            except OSError:
                continue
        return await self._connect_to(last, host, guard)

    async def _connect_to(
        self, address: str, host: Host, guard: "_Guard"
    ) -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(
            address,
            host.port,
            options=self._options,
            tunnel=self.tunnel or (),
            username=host.username or self._access.username,
            host_key_alias=host.name or host.address,
            known_hosts=guard.known,
            server_host_key_algs=guard.algorithms,
            client_factory=lambda: guard,
        )

    def _guard(self, host: Host) -> "_Guard":
        port = None if host.port == asyncssh.DEFAULT_PORT else host.port
        address = host.address
        known = asyncssh.match_known_hosts(
            self._known, host.name or address, address if _is_numeric(address) else "", port
        )
        return _Guard(host, known, self._trusted.get(str(host)), self._learn)

    def _learn(self, host: Host, key: str) -> bool:
        """Trust a key that nothing is known about, if that is what the block says."""
        if not self._on_first_use:
            return False
        place = str(host)
        needed = weight({place: key})
        if needed > self._room:
            self.left_out.add(place)
            return False
        self._room -= needed
        self.learned[place] = self._trusted[place] = key
        return True

    def _see_to_the_tunnel(self) -> None:
        if self.tunnel is not None and self.tunnel.is_closed():
            raise HostUnknown(f"The jump host {self._access.jump} has broken off.")

    async def _ask(self, connection: asyncssh.SSHClientConnection, command: str) -> Answer:
        sent_at, began = self._clock(), time.monotonic()
        process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(
            command,
            encoding=None,
            stdin=asyncssh.DEVNULL,
            stderr=asyncssh.DEVNULL,
            window=MOST_BYTES,
        )
        output, first = bytearray(), None
        while len(output) <= MOST_BYTES and (chunk := await process.stdout.read(MOST_BYTES)):
            first = first or time.monotonic()
            output += chunk
        whole = len(output) <= MOST_BYTES
        if whole:
            await process.wait_closed()
        return Answer(
            output=bytes(output[:MOST_BYTES]),
            whole=whole,
            status=process.exit_status if whole else None,
            sent_at=sent_at,
            first_seconds=(first or time.monotonic()) - began,
        )


class _Guard(asyncssh.SSHClient):
    """Decides about the key that one host shows, and remembers why it was refused."""

    def __init__(
        self, host: Host, known: Any, trusted: str | None, learn: Callable[[Host, str], bool]
    ) -> None:
        self._host = host
        self._trusted = trusted
        self._learn = learn
        self.known = known
        self.shown: str | None = None
        self.logging_in = False
        keys, authorities, *_ = known
        self.listed = bool(keys or authorities)
        types = [key.algorithm.decode() for key in keys]
        if trusted and not self.listed:
            types = [trusted.partition(" ")[0]]
        # A host has keys of several types; it is asked for one that can be recognized. After that
        # come the others, so that a host that has lost that one is seen to have changed.
        ordered = [one for one in types if one in ALGORITHMS]
        ordered += [one for one in ALGORITHMS if one not in ordered]
        forms = [form for one in dict.fromkeys(ordered) for form in ALGORITHMS[one]]
        certificates = [f"{form}-cert-v01@openssh.com" for form in forms if authorities]
        self.algorithms = certificates + forms

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Say whether to go on with a key that the known hosts do not list."""
        self.shown = f"{key.algorithm.decode()} {key.get_fingerprint()}"
        if self.listed:
            return False
        if self._trusted is not None:
            return self.shown == self._trusted
        return self._learn(self._host, self.shown)

    def begin_auth(self, username: str) -> None:
        """Note that the way there is clear, and that it is the login's turn."""
        self.logging_in = True

    def why(self, error: asyncssh.HostKeyNotVerifiable) -> HostUnknown:
        """Return why the host's key was refused."""
        if self.shown is None:
            text = f"Its host key or certificate does not hold: {_plain(error)}."
            return HostKeyChanged(text) if "revoked" in text else HostUnknown(text)
        if self.listed or self._trusted:
            known = "the known hosts list" if self.listed else f"was seen first ({self._trusted})"
            return HostKeyChanged(
                f"Its host key is {self.shown}, which is not the one that {known}. If it was "
                "installed anew, list its key in the known hosts of the block."
            )
        return HostUnknown(
            f"Its host key {self.shown} is unknown. List it in the known hosts of the block if it "
            "is the right one."
        )


def _meaning(error: Exception, guard: _Guard) -> SSHError:
    """Return what an error of connecting and logging in says about the host."""
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return guard.why(error)
        case asyncssh.PermissionDenied():
            return HostUnknown(f"It does not let this user in with this key: {_plain(error)}.")
        case asyncssh.KeyExchangeFailed() | asyncssh.ProtocolNotSupported():
            return HostUnknown(f"It speaks no form of SSH that is spoken here: {_plain(error)}.")
        case asyncssh.DisconnectError() if guard.logging_in and not _is_lost(error):
            return HostUnknown(f"It ends the login: {_plain(error)}.")
        case asyncssh.ChannelOpenError() if UNRESOLVED.search(str(error)):
            return HostUnknown(f"Its name does not resolve at the jump host: {_plain(error)}.")
        case asyncssh.ChannelOpenError(code=code) if code != asyncssh.OPEN_CONNECT_FAILED:
            return HostUnknown(f"The jump host does not connect us: {_plain(error)}.")
        case OSError(errno=number) if number in OURS:
            return HostUnknown(f"There is no way to it from here: {_plain(error)}.")
    return HostDown(f"There is no connection: {_plain(error)}.")


def _is_lost(error: Exception) -> bool:
    # A host that goes away says nothing; one that does not like the login says so.
    return isinstance(error, asyncssh.ConnectionLost)


def _is_numeric(address: str) -> bool:
    return ":" in address or not re.search(r"[A-Za-z]", address)


def _plain(error: Exception) -> str:
    """Return an error's text on one line; parts of it come from the host."""
    text = str(error) or type(error).__name__
    plain = "".join(one if one.isprintable() else " " for one in text)
    return plain[:REASON_CHARACTERS].rstrip(" .")


def _private_key(access: "SSHAccess") -> asyncssh.SSHKey:
    passphrase = access.passphrase.get_secret_value() if access.passphrase else None
    try:
        return asyncssh.import_private_key(
            _unfolded(access.private_key.get_secret_value()), passphrase or None
        )
    except asyncssh.KeyEncryptionError:
        # The cause is left out of both, for it may quote what it could not read.
        raise SSHUnusable(
            "The block's passphrase does not open its private_key; set it to the right one."
        ) from None
    except (asyncssh.KeyImportError, ValueError):
        raise SSHUnusable(
            "The block's private_key is no private key in OpenSSH's form or PEM, or it is "
            "encrypted and there is no passphrase; paste the whole file."
        ) from None


def _unfolded(key: str) -> str:
    """Return a key with its lines, which a form with one line only makes one."""
    parts = re.fullmatch(r"(-----BEGIN [A-Z ]+-----)(.*)(-----END [A-Z ]+-----)", key.strip())
    if parts is None:
        return key.strip() + "\n"
    body = textwrap.wrap("".join(parts[2].split()), 70)
    return "\n".join([parts[1], *body, parts[3], ""])


def _known_hosts(lines: str) -> asyncssh.SSHKnownHosts:
    try:
        return asyncssh.import_known_hosts(lines)
    except ValueError as error:
        raise SSHUnusable(
            f"The block's known_hosts cannot be read: {_plain(error)}. Its lines are those of "
            "OpenSSH's file: names, the key's type, the key."
        ) from error
