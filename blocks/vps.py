"""Providers of virtual servers, and what they have of ours.

ProviderError
├── ProviderRefused          4xx or 3xx; another try would end the same way
├── ProviderAnswerUnusable   2xx, but not with what was asked for
└── ProviderUnavailable      no usable answer until the deadline

A provider is one subclass of `VPSProvider`, in a module of its own, that `blocks/__init__.py`
exports.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from prefect.blocks.core import Block
from pydantic import Field

from blocks.outgoing import BACKOFF, Backoff

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63)]
"""What a provider is called: letters, digits, and single dashes between them."""


class ProviderError(Exception):
    """A provider did not tell which servers there are.

    Attributes:
        status: The HTTP status that it answered with, where that says what is wrong.

    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ProviderRefused(ProviderError):
    """The provider refused the request, and would refuse it again."""


class ProviderAnswerUnusable(ProviderError):
    """The provider answered, but not with what was asked for."""


class ProviderUnavailable(ProviderError):
    """The provider could not be reached, or had no time, until the deadline."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server as its provider describes it; None is what the provider did not tell.

    Attributes:
        provider_id: What the provider calls it.
        public_ip: Its address, IPv4 or IPv6.
        host: Its name, or its address where it has no name that is one of a host.
        addresses: All of its addresses, at most 100.
        provider_status: Its status in the provider's words.
        os_template: What was installed on it.
        capacity_cpu: Cores.
        capacity_ram_mb: Memory, in MB.
        capacity_disk_mb: Disk, in MB.
        used_ram_mb: Memory in use, in MB.
        used_disk_mb: Disk in use, in MB.

    """

    provider_id: str
    public_ip: str
    host: str
    addresses: tuple[str, ...] | None = None
    provider_status: str | None = None
    os_template: str | None = None
    capacity_cpu: int | None = None
    capacity_ram_mb: int | None = None
    capacity_disk_mb: int | None = None
    used_ram_mb: int | None = None
    used_disk_mb: int | None = None


@dataclass(frozen=True)
class Listing:
    """What a provider told in one go.

    Attributes:
        servers: The servers that it has.
        unfit: Ids of further servers that it has, and why they cannot be used as it describes
            them; having no address yet is one reason.
        unreadable: What is wrong with entries without a usable id. Where there is one, nobody can
            say which server the provider has no more.
        without_details: Ids of those among `servers` of which only the list told, and why.

    """

    servers: tuple[Server, ...] = ()
    unfit: Mapping[str, str] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    without_details: Mapping[str, str] = field(default_factory=dict)


class VPSProvider(Block, ABC):
    """Tells which virtual servers a provider has of ours.

    Attributes:
        provider: What the provider is called in the records; two accounts have two names.

    """

    provider: Name = Field(
        description="What the provider is called in the records; two accounts have two names."
    )

    @abstractmethod
    async def servers(self, *, backoff: Backoff = BACKOFF) -> Listing:
        """Return all servers of the account.

        Args:
            backoff: When to try again.

        Raises:
            ProviderRefused: The provider does not let us in.
            ProviderAnswerUnusable: The provider's answer is no list of servers.
            ProviderUnavailable: The deadline came before a usable answer.

        """


def provider_of_type(slug: str) -> type[VPSProvider]:
    """Return the class of a provider's blocks by its type, such as `time4vps`.

    Raises:
        LookupError: There is no such provider; the message names those that there are.

    """
    known = {one.get_block_type_slug(): one for one in VPSProvider.__subclasses__()}
    if slug not in known:
        raise LookupError(
            f"{slug!r} is no type of a provider's block; there is {', '.join(sorted(known))}."
        )
    return known[slug]
