"""A store that a release wrote opens in this one, with all it held, or is refused by name."""

from __future__ import annotations

import json
import os
import re
import tarfile
from pathlib import Path

import msgpack
import pytest
from slatedb.uniffi import DbBuilder, WriteBatch

from taquba import IncompatibleStore, Queue, QueueReader
from taquba._engine.object_store import connect_engine
from taquba._model import keys
from taquba._objects.location import StoreLocation
from taquba.testing import MockClock
from tests.upgrade.contents import LEFT_AT, check_left, open_store, work_to_the_end
from tests.upgrade.write_stores import ENDS, STORES, packed, present_version

KEPT = sorted(path.name.removesuffix(".tar.xz") for path in STORES.glob("*.tar.xz"))


def unpack(name: str, folder: Path) -> Path:
    with tarfile.open(STORES / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "store"


def make_new(folder: Path) -> None:
    """Let all files look as if they were written just now, as many ways of copying do."""
    for path in folder.rglob("*"):
        os.utime(path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("copied", ["with times", "without times"])
@pytest.mark.parametrize("name", KEPT)
async def test_the_store_of_a_release_is_read_and_worked_to_the_end(
    tmp_path: Path, name: str, copied: str
) -> None:
    store = unpack(name, tmp_path)
    if copied == "without times":
        make_new(tmp_path)
    async with await QueueReader.open(store) as reader:
        await check_left(reader)
    clock = MockClock(LEFT_AT)
    async with await open_store(store, clock) as queue:
        await clock.advance(0)
        await work_to_the_end(store, queue, clock)
    # What both versions have written together is a store as well.
    async with await open_store(store, clock) as queue:
        assert (await queue.stats("mail")).done == 8
        assert await queue.enqueue("mail", b"new") is not None


def test_the_present_version_has_its_stores() -> None:
    # Its release adds them: python -m tests.upgrade.write_stores
    assert all(packed(present_version(), end).exists() for end in ENDS)


def relabel(store: Path) -> None:
    label = json.loads((store / "taquba.json").read_text("utf-8"))
    (key,) = (key for key, value in label.items() if value == keys.FORMAT_VERSION)
    (store / "taquba.json").write_text(json.dumps({**label, key: 99}), "utf-8")


async def restamp(store: Path) -> None:
    """Have a future version's stamp in the database, and no label, which may be lost."""
    location = StoreLocation.parse(store)
    db = await DbBuilder(location.path, connect_engine(location)).build()
    batch = WriteBatch()
    batch.put(keys.META, msgpack.packb((99, 0, "id")))
    await db.write(batch)
    await db.shutdown()
    (store / "taquba.json").unlink()


@pytest.mark.allow_blocking("the test itself makes the store's folder")
@pytest.mark.parametrize("known_by", ["label", "stamp"])
async def test_the_store_of_a_future_release_is_refused_by_name_and_left_alone(
    tmp_path: Path, known_by: str
) -> None:
    store = unpack(f"{present_version()}-closed", tmp_path)
    if known_by == "label":
        relabel(store)
    else:
        await restamp(store)
    before = files(tmp_path)
    for opening in (Queue.open, QueueReader.open):
        with pytest.raises(IncompatibleStore, match=rf"{re.escape(str(store))} has layout 99") as e:
            await opening(store)
        assert e.value.layout == 99
    assert files(tmp_path) == before
