"""SSH access to servers: who logs in, with which key, and how the servers are recognized."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

if TYPE_CHECKING:
    from blocks.ssh_hosts import Hosts

PORT = 22

JUMP = re.compile(
    r"(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})"
    r"@(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9]([A-Za-z0-9.-]{0,252})))"
    r"(:(?P<port>[0-9]{1,5}))?"
)


def _now() -> datetime:
    return datetime.now(UTC)


class SSHAccess(Block):
    """Logs in to servers with a key, and verifies who they are.

    No agent is asked or forwarded, no configuration file is read, and no password is tried.

    Attributes:
        username: Whom to log in as where a server names nobody else.
        private_key: The key to log in with, as in its file (OpenSSH's form, or PEM).
        passphrase: What the key is encrypted with, if it is.
        known_hosts: Lines as in OpenSSH's file `known_hosts`.
        host_keys: What to do about a server that `known_hosts` does not list.
        jump: A host to go through, `user@host` or `user@host:port`; the same key is used there.
        connect_seconds: How long connecting and logging in may take, in seconds; before that, as
            long for looking up a name.
        command_seconds: How long a command may take, in seconds.

    Example:
        Load a stored SSH access and run a command:
        ```python
        from blocks import SSHAccess
        from blocks.ssh_hosts import Host

        access = SSHAccess.load("BLOCK_NAME")
        async with access.opened() as ssh:
            answer = await ssh.run(Host("192.0.2.7"), "uptime")
        ```

    """

    _block_type_name = "SSH Access"
    _block_type_slug = "ssh-access"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9"
        "/assets/block-logos/shell.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    # A bad key must not be repeated in the error that says so.
    model_config = ConfigDict(hide_input_in_errors=True)

    username: str = Field(
        default="root",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$",
        description="Whom to log in as where a server names nobody else.",
    )
    private_key: SecretStr = Field(
        description="The key to log in with, as in its file (OpenSSH's form, or PEM)."
    )
    passphrase: SecretStr | None = Field(
        default=None, description="What the key is encrypted with, if it is."
    )
    known_hosts: str = Field(
        default="", description="Lines as in OpenSSH's file `known_hosts`, and as `ssh-keyscan`'s."
    )
    host_keys: Literal["verify", "trust-on-first-use"] = Field(
        default="verify",
        description="What to do about a server that the known hosts do not list: leave it alone, "
        "or trust the key that it shows first, and no other from then on.",
    )
    jump: str | None = Field(
        default=None,
        description="A host to go through, `user@host` or `user@host:port`, logged in to with the "
        "same key.",
    )
    connect_seconds: float = Field(
        default=10,
        gt=0,
        le=600,
        description="How long connecting and logging in may take, in seconds; before that, as "
        "long for looking up a name.",
    )
    command_seconds: float = Field(
        default=15, gt=0, le=600, description="How long a command may take, in seconds."
    )

    @field_validator("jump")
    @classmethod
    def _names_a_host(cls, jump: str | None) -> str | None:
        if jump:
            _jump(jump)
        return jump or None

    @property
    def jump_place(self) -> str | None:
        """Address and port of the jump host, if there is one."""
        parts = _jump(self.jump) if self.jump else None
        return f"{parts['address']}:{parts['port']}" if parts else None

    @asynccontextmanager
    async def opened(
        self, trusted: Mapping[str, str] | None = None, *, clock: Callable[[], datetime] = _now
    ) -> AsyncIterator["Hosts"]:
        """Open the way to the hosts: the jump host's connection, if there is one.

        Args:
            trusted: Keys that were trusted when they were first seen, as `Hosts.learned` told them.
            clock: Tells the time, UTC and aware.

        Raises:
            SSHUnusable: The key or the known hosts cannot be used.
            HostUnknown: The jump host cannot be used.

        """
        # Every Prefect process imports this module; the library is for those that log in.
        from blocks.ssh_hosts import Host, Hosts, HostUnknown, SSHError

        hosts = Hosts(self, trusted or {}, clock)
        async with AsyncExitStack() as stack:
            if self.jump:
                try:
                    tunnel = await stack.enter_async_context(
                        hosts.connected(Host(**_jump(self.jump)))
                    )
                except SSHError as error:
                    raise HostUnknown(f"The jump host {self.jump}: {error}") from error
                hosts.tunnel = tunnel
            yield hosts


def _jump(jump: str) -> dict[str, Any]:
    parts = JUMP.fullmatch(jump)
    if parts is None or not 0 < int(parts["port"] or PORT) < 1 << 16:
        raise ValueError("The jump host must be of the form `user@host` or `user@host:port`.")
    return {
        "address": parts["v6"] or parts["host"],
        "port": int(parts["port"] or PORT),
        "username": parts["user"],
    }
