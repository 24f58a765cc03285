"""Which addresses whoever writes a definition may have a worker call: the public ones."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOBODYS = tuple(
    ipaddress.ip_network(one)
    # Special ones that Python's table calls global, depending on its version: IETF's protocols,
    # relays of 6to4, documentation; and that at which each machine of Azure's finds its host.
    for one in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_TEREDO = ipaddress.IPv6Network("2001::/32")


def is_public(address: Address) -> bool:
    """Whether an address is one of the Internet's hosts, whatever it is wrapped in.

    An IPv4 address may stand in one of IPv6: mapped, of NAT64, or of 6to4. Teredo's, which lead
    through a tunnel, are not public.
    """
    if any(address in network for network in _NOBODYS):
        return False
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _NAT64:
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address in _GLOBAL_UNICAST and address not in _TEREDO and address.is_global


@dataclass(frozen=True)
class Allowed:
    """What may be called beside the public addresses.

    Attributes:
        networks: Addresses and networks.
        names: Names of hosts, in lower case, wherever they lead.
    """

    networks: tuple[Network, ...] = ()
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[str]) -> "Allowed":
        """Return what entries allow, each an address, a network or a name."""
        networks, names = [], []
        for one in entries:
            try:
                networks.append(ipaddress.ip_network(one, strict=False))
            except ValueError:
                names.append(one.lower())
        return cls(tuple(networks), frozenset(names))

    def fitting(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Return those addresses of a host that may be called."""
        if host.lower().rstrip(".") in self.names:
            return list(addresses)
        return [one for one in addresses if self._fits(one)]

    def _fits(self, said: str) -> bool:
        try:
            address = ipaddress.ip_address(said)
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return is_public(address) or any((mapped or address) in one for one in self.networks)
