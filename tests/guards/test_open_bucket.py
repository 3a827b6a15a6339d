"""A bucket that cannot hold a store, or holds somebody else's, is refused before it is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import msgpack
import pytest
from slatedb.uniffi import Db, DbBuilder, WriteBatch

from taquba import IncompatibleStore, Queue, QueueReader, StoreError, StoreNotInitialized
from taquba._engine.object_store import connect_engine
from taquba._model import keys
from taquba._objects.location import StoreLocation
from tests.servers.faulty_s3 import FaultyS3

URL = "s3://bucket/prefix"
PATIENCE_SECONDS = 5

Open = Callable[[str], Awaitable[object]]


async def open_queue(url: str) -> None:
    async with Queue.open(url):
        pass


async def open_reader(url: str) -> None:
    async with QueueReader.open(url):
        pass


OPENINGS = pytest.mark.parametrize("open_", [open_queue, open_reader])


async def refusal(open_: Open, url: str = URL) -> StoreError:
    started = monotonic()
    with pytest.raises(StoreError) as caught:
        await open_(url)
    assert monotonic() - started < PATIENCE_SECONDS
    assert url in str(caught.value)
    return caught.value


@OPENINGS
@pytest.mark.parametrize(
    ("fault", "permanent", "words"),
    [
        ("unknown key", True, ["refuses the credentials", "AWS_ACCESS_KEY_ID"]),
        ("wrong secret", True, ["SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"]),
        ("no rights", True, ["may not", "s3://bucket", "AccessDenied"]),
        ("no bucket", True, ["no bucket s3://bucket at http://127.0.0.1", "AWS_ENDPOINT"]),
        ("other region", True, ["another region", "AWS_REGION"]),
        ("skewed request", True, ["clock"]),
        ("busy", False, ["SlowDown", "try again"]),
    ],
)
async def test_why_a_bucket_cannot_be_opened_is_said_at_once(
    s3: FaultyS3, open_: Open, fault: str, permanent: bool, words: list[str]
) -> None:
    s3.faults.add(fault)
    error = await refusal(open_)
    assert error.permanent is permanent
    for word in words:
        assert word in str(error)
    assert s3.objects == {}


@OPENINGS
@pytest.mark.parametrize(
    ("settings", "permanent", "words"),
    [
        ({"AWS_ENDPOINT": "http://127.0.0.1:9"}, False, ["127.0.0.1:9 does not answer"]),
        ({"AWS_ALLOW_HTTP": ""}, True, ["AWS_ALLOW_HTTP=true"]),
        ({"AWS_SECRET_ACCESS_KEY": ""}, True, ["no usable credentials", "AWS_SECRET_ACCESS_KEY"]),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            True,
            ["no usable credentials", "AWS_ACCESS_KEY_ID"],
        ),
    ],
)
async def test_settings_that_cannot_work_are_named(
    s3: FaultyS3,
    monkeypatch: pytest.MonkeyPatch,
    open_: Open,
    settings: dict[str, str],
    permanent: bool,
    words: list[str],
) -> None:
    # Where credentials are asked for when there are none; a real machine may have one.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    for name, value in settings.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    error = await refusal(open_)
    assert error.permanent is permanent
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize(
    ("url", "settings", "words"),
    [
        ("az://container/prefix", {}, "AZURE_STORAGE_ACCOUNT_NAME"),
        (
            "az://container/prefix",
            {"AZURE_STORAGE_ACCOUNT_NAME": "name", "AZURE_STORAGE_ACCOUNT_KEY": "not base64!"},
            "AZURE_STORAGE_ACCOUNT_KEY",
        ),
        (
            "gs://bucket/prefix",
            {"GOOGLE_APPLICATION_CREDENTIALS": "/does/not/exist"},
            "GOOGLE_APPLICATION_CREDENTIALS",
        ),
    ],
)
async def test_settings_of_other_providers_are_named(
    monkeypatch: pytest.MonkeyPatch, url: str, settings: dict[str, str], words: str
) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert words in str(await refusal(open_queue, url))


@OPENINGS
async def test_a_bucket_that_never_answers_is_given_up(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch, open_: Open
) -> None:
    monkeypatch.setattr("taquba._objects.client._TIMEOUT", 0.2)
    s3.faults.add("silent")
    error = await refusal(open_)
    assert not error.permanent


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("unconditional creates", "If-None-Match"),
        ("stale lists", "listing"),
        ("refused deletes", "allow these credentials to delete"),
        ("read only", "may not write"),
    ],
)
async def test_a_bucket_that_cannot_hold_a_store_is_refused_before_one_is_made(
    s3: FaultyS3, fault: str, words: str
) -> None:
    s3.faults.add(fault)
    error = await refusal(open_queue)
    assert error.permanent
    assert words in str(error)
    left = {key for key in s3.objects if fault != "refused deletes" or "/taquba-probe-" not in key}
    assert left == set()


def is_of_a_probe(request: tuple[str, str, int]) -> bool:
    method, what, _ = request
    # Only probes delete while a store is opened, all in one request.
    return "taquba-probe-" in what or method == "POST"


async def test_a_new_store_costs_a_handful_of_requests_more_and_a_known_one_two(
    s3: FaultyS3,
) -> None:
    async with Queue.open(URL):
        assert len([request for request in s3.requests if is_of_a_probe(request)]) == 4
    s3.requests.clear()
    async with Queue.open(URL):
        extra = [what for _, what, _ in s3.requests if what.endswith("taquba.json")]
        assert len(extra) == 1
        looks = [what for method, what, _ in s3.requests[:2] if method == "GET"]
        assert sorted(looks) == ["prefix/manifest/", "prefix/taquba.json"]
        assert not [request for request in s3.requests if is_of_a_probe(request)]


async def test_a_reader_finds_nothing_where_nothing_is(s3: FaultyS3) -> None:
    with pytest.raises(StoreNotInitialized):
        await open_reader(URL)
    assert s3.objects == {}


@asynccontextmanager
async def foreign_owner(url: str, rows: dict[bytes, bytes]) -> AsyncIterator[Db]:
    """Somebody else's program, with its database open and in use."""
    location = StoreLocation.parse(url)
    store = await asyncio.to_thread(connect_engine, location)
    db = await DbBuilder(location.path, store).build()
    try:
        await write(db, rows)
        yield db
        # It is fenced no earlier than its next write.
        await write(db, rows)
    finally:
        await db.shutdown()


async def write(db: Db, rows: dict[bytes, bytes]) -> None:
    batch = WriteBatch()
    for key, value in rows.items():
        batch.put(key, value)
    await db.write(batch)
    await db.flush()


@OPENINGS
@pytest.mark.parametrize("kind", ["bucket", "folder"])
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({b"user:1": b"ada"}, "did not make"),
        ({keys.META: msgpack.packb((99, 0))}, "layout 99"),
    ],
)
@pytest.mark.allow_blocking("the test itself connects to the folder")
async def test_the_owner_of_another_database_is_not_fenced(
    s3: FaultyS3, tmp_path: Path, open_: Open, kind: str, rows: dict[bytes, bytes], words: str
) -> None:
    url = URL if kind == "bucket" else str(tmp_path)
    async with foreign_owner(url, rows):
        with pytest.raises(IncompatibleStore, match=words):
            await open_(url)


async def test_the_label_of_another_layout_is_enough_to_refuse_it(s3: FaultyS3) -> None:
    async with Queue.open(URL) as owner:
        s3.objects["prefix/taquba.json"].data = b'{"format": "taquba", "layout": 99}'
        s3.requests.clear()
        with pytest.raises(IncompatibleStore, match="layout 99") as caught:
            await Queue.open(URL)
        assert caught.value.layout == 99
        await owner.enqueue("q", b"")


@pytest.mark.parametrize("label", [None, b"", b"{", b"7", b"[]", b'{"layout": "1"}'])
async def test_a_store_without_a_readable_label_is_opened_and_labelled_again(
    tmp_path: Path, label: bytes | None
) -> None:
    async with Queue.open(tmp_path) as queue:
        await queue.enqueue("q", b"")
    path = tmp_path / "taquba.json"
    written = path.read_bytes()
    path.unlink() if label is None else path.write_bytes(label)
    async with Queue.open(tmp_path) as queue:
        assert (await queue.stats("q")).pending == 1
    assert path.read_bytes() == written


async def test_a_store_that_was_only_half_made_is_made(tmp_path: Path) -> None:
    """Its first owner was killed after the database, and before the first commit."""
    store = await asyncio.to_thread(connect_engine, StoreLocation.parse(tmp_path))
    db = await DbBuilder("", store).build()
    await db.shutdown()
    async with Queue.open(tmp_path) as queue:
        await queue.enqueue("q", b"")
        assert (await queue.stats("q")).pending == 1
