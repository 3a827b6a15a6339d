"""Places that cannot be a store are refused by name, and left as they were."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from slatedb.uniffi import DbBuilder, KeyRange, ObjectStore, WriteBatch

from taquba import IncompatibleStore, InvalidArgument, Queue, StoreError, TaqubaError
from taquba._engine.object_store import connect_engine
from taquba._model import keys
from taquba._objects.location import StoreLocation


async def write_rows(store: ObjectStore, rows: dict[bytes, bytes]) -> None:
    db = await DbBuilder("", store).build()
    batch = WriteBatch()
    for key, value in rows.items():
        batch.put(key, value)
    await db.write(batch)
    await db.shutdown()


async def read_rows(store: ObjectStore) -> dict[bytes, bytes]:
    db = await DbBuilder("", store).build()
    rows = await db.scan(EVERYTHING)
    found = {row.key: row.value for row in await rows.next_batch(1000)}
    await db.shutdown()
    return found


def store_of(url: str) -> ObjectStore:
    return connect_engine(StoreLocation.parse(url))


EVERYTHING = KeyRange(start=b"", start_inclusive=True, end=None, end_inclusive=False)
OTHER_LAYOUT = {keys.META: msgpack.packb((99, 0)), b"\x01\x63row": b"x"}
FOREIGN = {b"user:1": b"ada", b"user:2": b"grace"}


@pytest.mark.allow_blocking("the test itself makes the store's folder")
@pytest.mark.parametrize("kind", ["memory", "folder"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (OTHER_LAYOUT, "layout 99"),
        ({keys.META: b"\xc1 no msgpack"}, "layout -1"),
        ({keys.META: msgpack.packb([])}, "layout -1"),
        ({keys.META: msgpack.packb((keys.FORMAT_VERSION, 0))}, "layout -1"),
        (FOREIGN, "did not make"),
    ],
)
async def test_a_store_of_another_kind_is_refused_and_left_alone(
    tmp_path: Path, kind: str, rows: dict[bytes, bytes], message: str
) -> None:
    url = f"memory://{tmp_path}" if kind == "memory" else str(tmp_path / "store")
    await write_rows(store_of(url), rows)
    for _ in range(2):
        with pytest.raises(IncompatibleStore, match=message) as caught:
            await Queue.open(url)
        assert url in str(caught.value)
        assert caught.value.permanent
    assert await read_rows(store_of(url)) == rows


async def test_a_store_refused_as_incompatible_is_closed_again(tmp_path: Path) -> None:
    store = store_of(f"memory://{tmp_path}")
    await write_rows(store, FOREIGN)
    with pytest.raises(IncompatibleStore):
        await Queue.open(f"memory://{tmp_path}")
    # Its owner can go on using it.
    await write_rows(store, {b"user:3": b"edsger"})
    assert len(await read_rows(store)) == 3


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://localhost",
        "http://example.org/store",
        "file://",
        "file:///",
        "file://host/store",
        "file:relative://x",
        "s3://",
        "s3://bucket",
        "s3:///prefix",
        "gs://bucket/",
        "az://container",
        "s3:/bucket/prefix",
        "s3//bucket/prefix",
        "gs:/x",
        "memory:",
        "memory:name",
        "memory:/name",
        "file:relative",
        "file:/absolute",
        "S3://bucket/prefix",
        "Memory://name",
        "FILE:///absolute",
        "http://",
        "http:/example.org",
        "postgres:store",
        " s3://bucket/prefix",
        "s3://bucket/prefix ",
        " memory:x",
        "s3://bucket/prefix?",
        "s3://bucket/prefix#",
        "s3://bucket:9000/prefix",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "s3://bucket/a/./b",
        "memory://a\nb",
        "a\0b",
        "~nobody-of-this-name/store",
    ],
)
async def test_an_unusable_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await Queue.open(url)
    assert repr(url) in str(caught.value) or not url


async def test_a_url_that_became_a_path_is_refused() -> None:
    # That is what a path makes of s3://bucket/prefix.
    with pytest.raises(InvalidArgument, match="s3:/bucket/prefix"):
        await Queue.open(Path("s3://bucket/prefix"))


async def test_credentials_in_a_url_are_refused_and_not_shown() -> None:
    with pytest.raises(InvalidArgument, match="must not have credentials") as caught:
        await Queue.open("s3://key:secret@bucket/prefix")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["list"]])
async def test_a_value_that_is_no_url_is_refused_by_name(value: object) -> None:
    with pytest.raises(TypeError) as caught:
        await Queue.open(value)  # type: ignore[arg-type]
    assert isinstance(caught.value, TaqubaError)
    assert repr(value) in str(caught.value)


def a_file(folder: Path) -> Path:
    path = folder / "file"
    path.write_text("mine")
    return path


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "store"


def in_proc(folder: Path) -> Path:
    if not Path("/proc/sys").exists():
        pytest.skip("this platform has no /proc")
    return Path("/proc/taquba-test/store")


def proc_itself(folder: Path) -> Path:
    return in_proc(folder).parent.with_name("sys")


def too_long(folder: Path) -> Path:
    return folder / ("x" * 300)


def without_permission(folder: Path) -> Path:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    path = folder / "locked"
    path.mkdir(mode=0o500)
    return path


def below_one_without_permission(folder: Path) -> Path:
    return without_permission(folder) / "store"


@pytest.mark.parametrize(
    "place",
    [
        a_file,
        below_a_file,
        in_proc,
        proc_itself,
        too_long,
        without_permission,
        below_one_without_permission,
    ],
)
@pytest.mark.parametrize("fsync", [True, False])
async def test_a_folder_that_cannot_be_used_is_refused_by_name(
    tmp_path: Path, place: Callable[[Path], Path], fsync: bool
) -> None:
    path = place(tmp_path)
    with pytest.raises(StoreError, match=re.escape(str(path))) as caught:
        await Queue.open(path, fsync=fsync)
    assert caught.value.permanent
    if place is a_file:
        assert path.read_text() == "mine"


@pytest.mark.allow_blocking("asks for the working directory, which waits for nothing")
async def test_every_form_of_a_local_path_names_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a store"
    forms: list[str | Path] = [
        folder,
        str(folder),
        "a store",
        "./a store",
        f"file://{tmp_path}/a%20store",
        f"file://localhost{tmp_path}/a%20store",
        "elsewhere/link/a store",
    ]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to("..")
    for number, form in enumerate(forms):
        async with Queue.open(form, fsync=False) as queue:
            await queue.enqueue("q", b"x")
            assert (await queue.stats("q")).pending == number + 1
    assert sorted(os.listdir()) == ["a store", "elsewhere"]
