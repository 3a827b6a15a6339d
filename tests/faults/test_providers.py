"""What Azure and Google Cloud Storage say to a conditional write that they did not carry out, or
did: it is looked into before it is believed, as with S3."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import NamedTuple

import pytest

from taquba import InboxConfig, Producer, Queue
from taquba._objects.candidates import stand_for
from taquba._objects.location import StoreLocation
from tests.queue.support import must_claim
from tests.servers.faults import Faults
from tests.servers.faulty_s3 import FaultyGCS, Odd
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import AzureServer

ASLEEP = InboxConfig(poll_interval=3600)


class Place(NamedTuple):
    """A store, and how to have the next write of a kind answered oddly."""

    url: str
    answer_next: Callable[[str, Odd], Awaitable[None]]


AZURE = [
    (409, "BlobAlreadyExists"),
    (412, "ConditionNotMet"),
    (404, "BlobNotFound"),
    (409, "BlobBeingRehydrated"),
    (412, "LeaseIdMissing"),
    (403, "AuthorizationFailure"),
    (429, "TooManyRequests"),
    (500, "OperationTimedOut"),
]
GOOGLE = [
    (412, "PreconditionFailed"),
    (409, "Conflict"),
    (404, "NoSuchKey"),
    (403, "AccessDenied"),
    (429, "SlowDown"),
    (503, "ServiceUnavailable"),
]
KINDS = {"inbox": "-inbox/", "payload": "-payloads/", "wal": "/wal/", "other": "/election.json"}
CASES = [
    (provider, Odd(*answer, carried_out))
    for provider, answers in (("azure", AZURE), ("google", GOOGLE))
    for answer in answers
    for carried_out in (False, True)
]
SHORT = {
    ("azure", Odd(409, "BlobAlreadyExists")),
    ("azure", Odd(412, "ConditionNotMet", carried_out=True)),
    ("google", Odd(412, "PreconditionFailed")),
    ("google", Odd(409, "Conflict", carried_out=True)),
}
PARAMETERS = [
    pytest.param(*case, marks=[] if case in SHORT else [pytest.mark.long]) for case in CASES
]


def named(value: object) -> str:
    if isinstance(value, Odd):
        return f"{value.status} {value.code}{', carried out' if value.carried_out else ''}"
    return str(value)


@pytest.fixture
async def place(
    provider: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    if provider == "google":
        gcs: FaultyGCS = request.getfixturevalue("gcs")
        left: list[Odd] = []

        async def answer_next(kind: str, odd: Odd) -> None:
            assert not left
            left.append(odd)

            def rule(method: str, key: str, conditional: bool) -> Odd | None:
                return left.pop() if method == "PUT" and KINDS[kind] in key and left else None

            gcs.odd = rule

        yield Place("gs://bucket/prefix", answer_next)
        assert not left
        return
    azure: AzureServer = request.getfixturevalue("azure_server")
    async with FaultyProxy(azure.endpoint) as proxy:
        injected = 0

        async def answer_next_of_azure(kind: str, odd: Odd) -> None:
            nonlocal injected
            assert (await proxy.counts()).of().struck == injected
            injected += 1
            faults = Faults(limit=1, methods=("PUT",), kinds=(kind,))
            answer = (odd.status, odd.code)
            if odd.carried_out:
                faults = replace(faults, fail_reply=1, failure=answer)
            else:
                faults = replace(faults, refuse=1, refusal=answer)
            await proxy.inject(faults)

        for name, value in azure.environment(proxy.endpoint).items():
            monkeypatch.setenv(name, value)
        yield Place(f"{azure.root}/{uuid.uuid4().hex}", answer_next_of_azure)
        assert (await proxy.counts()).of().struck == injected


@pytest.mark.parametrize(("provider", "odd"), PARAMETERS, ids=named)
async def test_an_odd_answer_to_a_write_loses_and_doubles_nothing(place: Place, odd: Odd) -> None:
    async with (
        Queue.open(place.url, inbox=ASLEEP, payload_offload_threshold=100) as queue,
        Producer.open(place.url) as producer,
    ):
        await place.answer_next("inbox", odd)
        sent = await producer.enqueue("q", b"sent")
        await queue.ingest_now()
        await place.answer_next("payload", odd)
        large = await queue.enqueue("q", b"x" * 200)
        await place.answer_next("payload", odd)
        await queue.objects.put("key", b"value")
        await place.answer_next("wal", odd)
        small = await queue.enqueue("q", b"small")
        assert await queue.objects.get("key") == b"value"
    # The write that fences the former owner, whose log it reads again.
    await place.answer_next("wal", odd)
    async with Queue.open(place.url) as queue:
        claims = [await must_claim(queue) for _ in range(3)]
        assert {claim.id: claim.payload for claim in claims} == {
            sent.id: b"sent",
            large.id: b"x" * 200,
            small.id: b"small",
        }
        assert (await queue.stats("q")).pending == 0


@pytest.mark.parametrize(("provider", "odd"), PARAMETERS, ids=named)
async def test_an_odd_answer_costs_nobody_the_lease(place: Place, odd: Odd) -> None:
    election = stand_for(StoreLocation.parse(place.url), 0.6)
    await place.answer_next("other", odd)
    async with asyncio.timeout(20):
        await election.win()
    losing = asyncio.create_task(election.lost())
    for _ in range(2):
        await place.answer_next("other", odd)
        await asyncio.wait([losing], timeout=0.5)
    assert not losing.done()
    losing.cancel()
    await election.resign()
