"""Which addresses a worker delivers to, however they are written or resolved."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taquba import PermanentFailure
from taquba_webhooks._addresses import is_public, public_addresses
from tests.webhooks.support import resolving

REFUSED = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.9",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8", "100::1", "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1",
    "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%1", "fec0::1",
    "ff02::1", "ff0e::1",
]  # fmt: skip
TAKEN = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.1", "93.184.216.34", "100.63.255.255",
    "100.128.0.1", "126.255.255.255", "128.0.0.1", "172.15.255.255", "172.32.0.1", "192.167.1.1",
    "223.255.255.255", "2606:4700::1111", "2a00:1450:4001:80b::200e", "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", TAKEN)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ip_address(address))


# An eighth of all IPv6 addresses, where those that were ever given out lie.
in_use = st.integers(0, 2**125 - 1).map(lambda low: IPv6Address((1 << 125) + low))


@given(st.integers(0, 2**32 - 1).map(IPv4Address) | in_use)
def test_what_is_public_here_is_global_for_python_as_well(
    address: IPv4Address | IPv6Address,
) -> None:
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_an_address_within_an_address_counts(inner: IPv4Address) -> None:
    assert is_public(IPv6Address((0xFFFF << 32) + int(inner))) == is_public(inner)
    assert is_public(IPv6Address((0x64FF9B << 96) + int(inner))) == is_public(inner)
    assert not is_public(IPv6Address((0x2002 << 112) + (int(inner) << 80) + 1))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001", "0", "::1", "::",
     "::ffff:127.0.0.1", "::ffff:7f00:1", "localhost"],
)  # fmt: skip
async def test_every_spelling_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(PermanentFailure, match="not a public address"):
        await public_addresses(host, 80)


@pytest.mark.parametrize(
    "addresses",
    [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["fd00::1", "8.8.8.8"], ["::ffff:10.0.0.1"]],
)
async def test_one_address_that_is_not_public_spoils_them_all(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    resolving(monkeypatch, {"hooks.example": [addresses]})
    with pytest.raises(PermanentFailure, match=r"host 'hooks.example' leads to (10|fd00|::ffff)"):
        await public_addresses("hooks.example", 80)


async def test_public_addresses_keep_the_resolvers_order(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, {"hooks.example": [["2606:4700::1111", "8.8.8.8"]]})
    assert await public_addresses("hooks.example", 443) == ["2606:4700::1111", "8.8.8.8"]
