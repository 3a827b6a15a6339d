"""The proxy does to requests what it was told, and counts them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from http.client import HTTPConnection

import pytest

from tests.servers.faults import Faults, kind_of
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import S3Server

BUCKET = S3Server.root.removeprefix("s3://")


class Client:
    """Puts and gets objects of the test bucket. It never repeats a request by itself."""

    def __init__(self, endpoint: str) -> None:
        self._address = endpoint.removeprefix("http://")

    async def put(self, key: str, data: bytes = b"data") -> int:
        status, _ = await asyncio.to_thread(self._ask, "PUT", key, data)
        return status

    async def get(self, key: str) -> bytes | None:
        status, data = await asyncio.to_thread(self._ask, "GET", key)
        return data if status == 200 else None

    def _ask(self, method: str, key: str, data: bytes | None = None) -> tuple[int, bytes]:
        with contextlib.closing(HTTPConnection(self._address, timeout=30)) as connection:
            # moto lets nobody read who has no signature, but does not check it.
            headers = {
                "Authorization": "AWS4-HMAC-SHA256 Credential=test/20300101/x/s3/aws4_request"
            }
            connection.request(method, f"/{BUCKET}/{key}", data, headers)
            reply = connection.getresponse()
            return reply.status, reply.read()


@pytest.fixture
def behind(proxy: FaultyProxy) -> Client:
    return Client(proxy.endpoint)


@pytest.fixture
def direct(s3_server: S3Server) -> Client:
    return Client(s3_server.endpoint)


async def test_faults_strike_before_or_after_the_store(
    proxy: FaultyProxy, behind: Client, direct: Client
) -> None:
    await proxy.inject(Faults(refuse=1))
    assert await behind.put("wal/refused") == 503
    await proxy.inject(Faults(fail_reply=1))
    assert await behind.put("wal/failed") == 500
    await proxy.inject(Faults(reset=1))
    with pytest.raises(ConnectionError):
        await behind.put("wal/reset")
    await proxy.inject(Faults(lose_reply=1))
    with pytest.raises(ConnectionError):
        await behind.put("wal/lost")
    for fault, key in (("hang", "wal/hung"), ("hang_reply", "wal/unanswered")):
        await proxy.inject(Faults(**{fault: 1}))
        hung = asyncio.create_task(behind.put(key))
        await asyncio.wait([hung], timeout=0.2)
        assert not hung.done()
        await proxy.calm()
        with pytest.raises(ConnectionError):
            await hung
    assert await behind.put("wal/fine") == 200
    landed = {
        name: await direct.get(f"wal/{name}") is not None
        for name in ("refused", "failed", "reset", "lost", "hung", "unanswered", "fine")
    }
    assert landed == {
        "refused": False,
        "failed": True,
        "reset": False,
        "lost": True,
        "hung": False,
        "unanswered": True,
        "fine": True,
    }


async def test_faults_strike_what_matches_in_bursts_and_up_to_a_limit(
    proxy: FaultyProxy, behind: Client
) -> None:
    await proxy.inject(Faults(refuse=1, limit=2, methods=("PUT",), kinds=("wal",)))
    assert await behind.put("a/manifest/1") == 200
    assert [await behind.put(f"a/wal/{n}") for n in range(4)] == [503, 503, 200, 200]
    assert await behind.get("a/wal/3") == b"data"
    await proxy.inject(Faults(refuse=0.2, burst=3))
    statuses = [await behind.put(f"a/wal/{n}") for n in range(60)]
    runs = "".join("x" if status == 503 else " " for status in statuses).split()
    assert runs
    assert all(len(run) % 3 == 0 for run in runs[:-1])


async def test_replies_take_at_least_the_latency(proxy: FaultyProxy, behind: Client) -> None:
    await proxy.inject(Faults(latency_ms=100))
    started = time.monotonic()
    await asyncio.gather(*(behind.put(f"l/{n}") for n in range(10)))
    # Side by side: a slow store is not a narrow one.
    assert 0.1 <= time.monotonic() - started < 0.9


async def test_requests_and_bytes_are_counted(proxy: FaultyProxy, behind: Client) -> None:
    await behind.put("c/wal/1", bytes(1000))
    await behind.put("c/wal/2", bytes(500))
    await behind.put("c/manifest/1", bytes(10))
    await behind.get("c/wal/1")
    await proxy.inject(Faults(refuse=1))
    await behind.put("c/wal/3", bytes(7))
    counts = await proxy.counts()
    puts = counts.of(method="PUT", kind="wal")
    assert (puts.requests, puts.struck, puts.sent_bytes) == (3, 1, 1507)
    gets = counts.of(method="GET")
    assert (gets.requests, gets.received_bytes) == (1, 1000)
    assert counts.of().requests == 5
    await proxy.clear_counts()
    assert (await proxy.counts()).of().requests == 0


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/bucket/a/wal/0001.sst", "wal"),
        ("/bucket/wal/manifest/0001.manifest", "manifest"),
        ("/bucket/a/compacted/01ABC.sst", "compacted"),
        ("/bucket/a-payloads/01/02", "payload"),
        ("prefix/wal/", "wal"),
        ("/bucket", "other"),
    ],
)
def test_objects_are_told_apart_by_their_folder(path: str, kind: str) -> None:
    assert kind_of(path) == kind
