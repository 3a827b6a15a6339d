"""What somebody else puts into the places of a store in a bucket stops nothing."""

from __future__ import annotations

import asyncio
import logging

import pytest
from azure.storage.blob import ContainerClient
from ulid import ULID

from taquba import InboxConfig, Producer, Queue, QueueReader, StoreError
from taquba._objects.inbox_objects import InboxObjects
from taquba._objects.location import StoreLocation
from tests.inbox.support import names
from tests.queue.support import must_claim
from tests.servers.faulty_s3 import FaultyS3, StoredObject
from tests.servers.stores import AzureServer

URL = "s3://bucket/prefix"
ASLEEP = InboxConfig(poll_interval=3600)

ODD = [
    "",
    "/",
    "/x",
    "/01K9A0B1C2D3E4F5G6H7J8K9M0",
    "a\x01b",
    "zz\x07",
    "\x7f",
    "01K9A0B1C2D3E4F5G6H7J8K9M1\n",
    "./x",
    "../x",
    "a//b//",
    "deep/er/\x02",
    "&amp;\t<",
    "ü\x01",
]
"""Names that end a listing of the client library's, but for the first."""


def plant(s3: FaultyS3, folder: str, *names: str) -> None:
    for name in names:
        s3.objects[f"{folder}/{name}"] = StoredObject(b"?", s3.now())


@pytest.mark.parametrize("name", ODD, ids=ascii)
async def test_whatever_lies_in_an_inbox_others_batches_are_taken(
    s3: FaultyS3, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Queue.open(URL, inbox=ASLEEP) as queue, Producer.open(URL) as producer:
        first = await producer.enqueue("q", b"x")
        plant(s3, "prefix-inbox/new", name)
        receipts = [first, *[await producer.enqueue("q", b"x") for _ in range(2)]]
        caplog.set_level(logging.WARNING)
        await queue.ingest_now()
        for receipt in receipts:
            assert await queue.get_job(receipt.id) is not None
        await queue.ingest_now()
        stats = await queue.inbox_stats()
        assert (stats.waiting, stats.rejected) == (0, 0)
    assert f"prefix-inbox/new/{name}" in s3.objects
    assert len(caplog.records) <= 1
    assert all("is left alone" in record.getMessage() for record in caplog.records)


async def test_odd_names_are_passed_over_page_by_page(s3: FaultyS3) -> None:
    s3.page_size = 2
    plant(s3, "prefix-inbox/new", *ODD)
    async with Queue.open(URL, inbox=ASLEEP) as queue, Producer.open(URL) as producer:
        for _ in range(5):
            await producer.enqueue("q", b"x")
        await queue.ingest_now()
        assert (await queue.stats("q")).pending == 5


async def test_odd_names_hide_no_rejected_batch_no_object_and_no_orphan(s3: FaultyS3) -> None:
    async with Queue.open(URL, inbox=ASLEEP, payload_offload_threshold=10) as queue:
        plant(s3, "prefix-inbox/new", "broken")
        await queue.ingest_now()
        await queue.enqueue("q", b"x" * 100)
        await queue.objects.put("a/b", b"object")
        (payload,) = (key for key in s3.objects if "-payloads/" in key and "/jobs/" in key)
        jobs = payload.rpartition("/")[0]
        orphan = f"{ULID.from_timestamp(1)}.{ULID.from_timestamp(1)}.mark"
        plant(s3, jobs, orphan, *ODD)
        plant(s3, jobs.replace("/jobs", "/objects"), *ODD)
        plant(s3, jobs.replace("/jobs", "/objects/a"), *ODD)
        plant(s3, "prefix-inbox/rejected", *ODD)
        await queue.sweep_now()
        async with asyncio.timeout(20):
            while f"{jobs}/{orphan}" in s3.objects:  # noqa: ASYNC110 - nobody tells when
                await asyncio.sleep(0.01)
        assert (await must_claim(queue)).payload == b"x" * 100
        assert [info.key async for info in queue.objects.list()] == ["a/b"]
        assert [info.key async for info in queue.objects.list("a")] == ["a/b"]
        assert [batch.name for batch in await queue.rejected_batches()] == ["broken"]
        async with QueueReader.open(URL) as reader:
            assert (await reader.inbox_stats()).rejected == 1


@pytest.mark.allow_blocking("the test itself plants an object")
async def test_a_key_that_hides_others_is_named_where_it_cannot_be_passed_over(
    azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = azure_server.environment(azure_server.endpoint)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    location = StoreLocation.parse(f"{azure_server.root}/{ULID()}")
    with ContainerClient(
        azure_server.endpoint,
        azure_server.root.removeprefix("az://"),
        credential=environment["AZURE_STORAGE_ACCOUNT_KEY"],
    ) as client:
        key = f"{location.path}-inbox/new//x"
        client.upload_blob(key, b"?")
        inbox = await InboxObjects.open(location, fsync=False)
        with pytest.raises(StoreError, match=f"'{key}'; remove that object") as caught:
            await names(inbox)
        assert not caught.value.permanent
        client.delete_blob(key)
        assert await names(inbox) == []
