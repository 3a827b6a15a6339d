"""Processes meet the owner of the store they mean, and of no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from taquba import InboxConfig, Producer, Queue
from taquba._line.address import socket_path
from taquba._objects.location import StoreLocation
from taquba._objects.owner_address import owner_address
from tests.servers.faulty_s3 import FaultyS3

WAIT = 20
NEVER_BY_ITSELF = InboxConfig(poll_interval=3600)


def addresses(url: str | Path) -> tuple[Path, Path]:
    location = StoreLocation.parse(url)
    return owner_address(location, "wake"), socket_path(location)


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("s3://bucket/prefix", "AWS_ENDPOINT"),
        ("s3://bucket/prefix", "AWS_ENDPOINT_URL"),
        ("s3://bucket/prefix", "AWS_ENDPOINT_URL_S3"),
        ("gs://bucket/prefix", "GOOGLE_BASE_URL"),
        ("az://container/prefix", "AZURE_STORAGE_ENDPOINT"),
        ("az://container/prefix", "AZURE_ENDPOINT"),
        ("az://container/prefix", "AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_buckets_of_one_name_at_two_endpoints_have_two_owners(
    monkeypatch: pytest.MonkeyPatch, url: str, variable: str
) -> None:
    seen = set(addresses(url))
    for value in ("http://127.0.0.1:1", "http://127.0.0.1:2"):
        monkeypatch.setenv(variable, value)
        both = addresses(url)
        assert seen.isdisjoint(both)
        seen.update(both)
        monkeypatch.setenv(variable, f"{value}/")
        assert addresses(url) == both


def test_whichever_variable_names_the_endpoint_the_owner_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    before = addresses("s3://bucket/prefix")
    monkeypatch.delenv("AWS_ENDPOINT")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert addresses("s3://bucket/prefix") == before


def test_every_store_has_an_address_of_its_own(tmp_path: Path) -> None:
    urls: list[str | Path] = [
        "memory://a",
        "memory://b",
        "s3://a/b",
        "s3://a/b/c",
        "gs://a/b",
        "az://a/b",
    ]
    found = [path for url in [*urls, tmp_path / "a", tmp_path / "b"] for path in addresses(url)]
    assert len(set(found)) == len(found)


def test_the_ways_to_write_a_folder_lead_to_one_owner(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "store")
    expected = addresses(tmp_path / "store")
    assert addresses(f"file://{tmp_path}/store") == expected
    for folder in (tmp_path / "link", tmp_path / "x" / ".." / "store"):
        assert addresses(folder) == expected


async def test_owners_of_one_bucket_name_at_two_endpoints_do_not_disturb_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look_at(server: FaultyS3) -> None:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)

    with FaultyS3() as one, FaultyS3() as other:
        url = f"{one.root}/same"
        assert url == f"{other.root}/same"
        look_at(one)
        first = await Queue.open(url, inbox=NEVER_BY_ITSELF, producer_socket=True)
        look_at(other)
        second = await Queue.open(url, inbox=NEVER_BY_ITSELF, producer_socket=True)
        to_second = await Producer.open(url)
        look_at(one)
        to_first = await Producer.open(url)
        # The second one's end must not take the first one's place to listen away.
        for producer, queue in ((to_second, second), (to_first, first)):
            receipt = await producer.enqueue("q", b"")
            claim = await queue.claim("q", wait=WAIT)
            assert claim is not None
            assert claim.id == receipt.id
            await producer.close()
            await queue.ack(claim)
            await queue.close()
