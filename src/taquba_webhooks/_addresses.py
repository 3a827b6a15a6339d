"""Which addresses are public, and the addresses of a host's name.

A receiver's URL is input from somebody else. A worker that followed it anywhere would let its
author reach the machine itself, its neighbours, or the metadata service of its cloud (server-side
request forgery).
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from taquba import PermanentFailure

# Written out, because the addresses that `ipaddress` calls global differ between releases of
# Python. After https://www.iana.org/assignments/iana-ipv4-special-registry and
# .../iana-ipv6-special-registry.
_NOT_PUBLIC_V4: Final = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared between a provider's customers
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # the host that runs a virtual machine on Azure
        "169.254.0.0/16",  # link-local, and metadata services of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays from IPv6, deprecated
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
_GLOBAL_UNICAST_V6: Final = IPv6Network("2000::/3")
"""All addresses ever assigned. Loopback, link-local, private and multicast are outside."""

_NOT_PUBLIC_V6: Final = [
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, with tunnels (Teredo)
        "2001:db8::/32",  # documentation
        "2002::/16",  # tunnels (6to4) that hold an IPv4 address
        "3fff::/20",  # documentation
    )
]
_TRANSLATED_V4: Final = IPv6Network("64:ff9b::/96")
"""How an IPv6-only network reaches IPv4 (NAT64); the last 32 bits are the IPv4 address."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address belongs to a host of the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _TRANSLATED_V4:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _GLOBAL_UNICAST_V6 and not any(
        address in network for network in _NOT_PUBLIC_V6
    )


def check_public(host: str, address: str) -> None:
    """Refuse an address that `host` leads to, unless it is public.

    Raises:
        PermanentFailure: It is not.
    """
    if not is_public(ip_address(address)):
        leads = "is" if address == host else f"leads to {address}, which is"
        raise PermanentFailure(
            f"host {host!r} {leads} not a public address: a worker with "
            "allow_private_addresses=True would deliver there"
        )


async def public_addresses(host: str, port: int) -> list[str]:
    """Resolve a host, best address first.

    One address that is not public makes the host refused: a connection could take any of them, and
    no receiver on the internet has such a name.

    Raises:
        PermanentFailure: The host leads to an address that is not public.
        OSError: The name could not be resolved.
    """
    loop = asyncio.get_running_loop()
    # Also reads the decimal, octal and hexadecimal spellings of addresses, as connecting would.
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(sockaddr[0]) for *_, sockaddr in found]
    for address in addresses:
        check_public(host, address)
    return addresses
