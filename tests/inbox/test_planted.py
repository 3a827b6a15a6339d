"""What somebody else puts into the places of a store is left alone, and stops nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ulid import ULID

from taquba import InboxConfig, Producer, Queue, QueueReader, StoreError
from tests.inbox.support import inbox_at, names, rejected

ASLEEP = InboxConfig(poll_interval=3600)

pytestmark = pytest.mark.allow_blocking("the tests themselves look at folders")


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    """A store that has an inbox, with nobody who looks into it."""
    store = tmp_path / "store"
    async with Queue.open(store, inbox=ASLEEP) as queue:
        await queue.enqueue("q", b"in the store")
    return store


@pytest.fixture
def new(store: Path) -> Path:
    """Where batches are put."""
    folder = store.with_name("store-inbox") / "new"
    folder.mkdir(exist_ok=True)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def replace_by_link(folder: Path, target: Path) -> None:
    folder.rmdir()
    folder.symlink_to(target)


def payloads_of(store: Path) -> Path:
    return next(store.parent.glob(f"{store.name}-payloads/*/jobs"))


def orphan_of(seconds: int) -> str:
    """The name of a payload whose job is gone, uploaded so long after 1970."""
    return f"{ULID.from_timestamp(seconds)}.{ULID.from_timestamp(seconds)}.mark"


def somebody_elses(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    (folder / "deep").mkdir(parents=True)
    (folder / "precious").write_bytes(b"mine")
    (folder / "deep" / str(ULID())).write_bytes(b"mine, too")
    return folder


def link_to_a_folder(new: Path) -> None:
    (new / "a").symlink_to(somebody_elses(new.parent.parent))


def link_to_a_folder_named_as_a_batch(new: Path) -> None:
    (new / str(ULID())).symlink_to(somebody_elses(new.parent.parent))


def link_to_a_file_named_as_a_batch(new: Path) -> None:
    (new / str(ULID())).symlink_to(somebody_elses(new.parent.parent) / "precious")


def link_to_the_store(new: Path) -> None:
    (new / "0").symlink_to(new.parent.parent / "store")


def link_to_itself(new: Path) -> None:
    (new / "loop").symlink_to("loop")
    (new / str(ULID())).symlink_to(new)


def link_to_nothing(new: Path) -> None:
    (new / str(ULID())).symlink_to("nothing")


def control_characters(new: Path) -> None:
    (new / "b\x07").write_bytes(b"?")
    (new / f"{ULID()}\n").write_bytes(b"?")


def not_utf8(new: Path) -> None:
    Path(os.fsdecode(os.fsencode(new) + b"/\xff\xfe")).write_bytes(b"?")


def other_alphabets(new: Path) -> None:
    for name in ("ü", "0\u0661", "a b", "50%", "%2e%2e", "c\\d", "*", "~", "?x=1", "-", "a" * 255):
        (new / name).write_bytes(b"?")


def hidden(new: Path) -> None:
    (new / ".nfs0000000000000001").write_bytes(b"?")
    (new / "...").write_bytes(b"?")


def folders(new: Path) -> None:
    (new / str(ULID()) / str(ULID())).mkdir(parents=True)
    (new / str(ULID()) / "x").mkdir(parents=True)
    (new / "n" / "ested").mkdir(parents=True)
    (new / "n" / "ested" / str(ULID())).write_bytes(b"?")


def deep_folders(new: Path) -> None:
    here = new
    for _ in range(600):
        here = here / "d"
        if len(str(here)) < 4000:
            here.mkdir()


def pipe_and_socket(new: Path) -> None:
    os.mkfifo(new / str(ULID()))
    os.mkfifo(new / "pipe")


PLANTS = [
    link_to_a_folder,
    link_to_a_folder_named_as_a_batch,
    link_to_a_file_named_as_a_batch,
    link_to_the_store,
    link_to_itself,
    link_to_nothing,
    control_characters,
    not_utf8,
    other_alphabets,
    hidden,
    folders,
    deep_folders,
    pipe_and_socket,
]


@pytest.mark.parametrize("plant", PLANTS)
async def test_whatever_lies_in_an_inbox_others_batches_are_taken(
    tmp_path: Path, store: Path, new: Path, plant: Callable[[Path], None]
) -> None:
    plant(new)
    other = tmp_path / "other"
    mine = tree(other) if other.exists() else {}
    engine = {name: data for name, data in tree(store).items() if name.startswith("wal")}
    async with Producer.open(store) as producer:
        receipts = [await producer.enqueue("q", b"x") for _ in range(3)]
    async with Queue.open(store, inbox=ASLEEP) as queue:
        await queue.ingest_now()
        for receipt in receipts:
            assert await queue.get_job(receipt.id) is not None
        assert (await queue.stats("q")).pending == 4
        assert (await queue.inbox_stats()).waiting == 0
    if other.exists():
        assert tree(other) == mine
    assert engine.items() <= tree(store).items()


async def test_what_is_left_alone_is_told_of_once(
    store: Path, new: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link_to_a_folder(new)
    not_utf8(new)
    hidden(new)
    async with Queue.open(store, inbox=ASLEEP) as queue:
        with caplog.at_level(logging.WARNING):
            await queue.ingest_now()
            await queue.ingest_now()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 4
    assert sum("is not a regular file" in one for one in told) == 1
    assert all("is left alone" in one and one.isascii() for one in told)


async def test_an_inbox_whose_folder_is_a_link_is_not_followed(
    tmp_path: Path, store: Path, new: Path
) -> None:
    other = somebody_elses(tmp_path)
    (other / f"{ULID()}#1").write_bytes(b"mine, and old")
    os.utime(other / "precious", (0, 0))
    for path in other.iterdir():
        os.utime(path, (0, 0))
    mine = tree(other)
    replace_by_link(new, other)
    async with Queue.open(store, inbox=ASLEEP) as queue:
        assert await queue.ingest_now() == 0
        await (await inbox_at(store)).remove_unfinished(1)
    with pytest.raises(StoreError, match="Not a directory"):
        await (await inbox_at(store)).put(str(ULID()), b"?")
    assert tree(other) == mine


@pytest.mark.parametrize("part", ["rejected", "rejected/broken"])
async def test_a_batch_is_not_put_aside_through_a_link(
    tmp_path: Path, store: Path, new: Path, part: str
) -> None:
    other = somebody_elses(tmp_path)
    mine = tree(other)
    link = new.parent / part
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(other)
    (new / "broken").write_bytes(b"broken")
    async with Producer.open(store) as producer:
        receipt = await producer.enqueue("q", b"x")
    async with Queue.open(store, inbox=ASLEEP) as queue:
        await queue.ingest_now()
        assert await queue.get_job(receipt.id) is not None
        assert await queue.rejected_batches() == []
    assert tree(other) == mine
    assert (new / "broken").exists()


async def test_what_was_put_aside_is_listed_whatever_lies_beside_it(
    tmp_path: Path, store: Path, new: Path
) -> None:
    (new / "broken").write_bytes(b"broken")
    async with Queue.open(store, inbox=ASLEEP) as queue:
        await queue.ingest_now()
    aside = new.parent / "rejected"
    (aside / "link").symlink_to(somebody_elses(tmp_path))
    (aside / "b\x07").mkdir()
    (aside / "b\x07" / "batch").write_bytes(b"?")
    (aside / "broken" / "batch ").symlink_to("batch")
    async with QueueReader.open(store) as reader:
        assert [batch.name for batch in await reader.rejected_batches()] == ["broken"]
        assert (await reader.inbox_stats()).rejected == 1


async def test_what_an_inbox_is_told_of_is_read_only_as_a_file(store: Path, new: Path) -> None:
    inbox = await inbox_at(store)
    name = str(ULID())
    (new / name).symlink_to(store / "taquba.json")
    with pytest.raises(StoreError, match="not a regular file"):
        await inbox.get(name)
    await inbox.remove([name])
    assert (store / "taquba.json").exists()
    assert await names(inbox) == []
    assert await rejected(inbox) == {}


async def test_orphans_are_not_looked_for_behind_links(tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with Queue.open(store, payload_offload_threshold=10) as queue:
        receipt = await queue.enqueue("q", b"x" * 100)
        await queue.objects.put("a/b", b"object")
        payloads = payloads_of(store)
        # It looks like an orphan, and lies in somebody else's folder.
        other = tmp_path / "other"
        (other / "jobs").mkdir(parents=True)
        orphan = orphan_of(1)
        for folder in (other, other / "jobs"):
            (folder / orphan).write_bytes(b"mine")
        (payloads / "link").symlink_to(other)
        (payloads / orphan_of(2)).symlink_to(other / orphan)
        (payloads.parent / "objects" / "link").symlink_to(other)
        (payloads / "loop").symlink_to("loop")
        (payloads / "b\x07").write_bytes(b"?")
        own_orphan = payloads / orphan_of(3)
        own_orphan.write_bytes(b"?")
        await queue.sweep_now()
        assert tree(other) == {orphan: b"mine", f"jobs/{orphan}": b"mine"}
        assert not own_orphan.exists()
        (payloads.parent / "objects" / "a" / "not one of ours").write_bytes(b"?")
        (payloads.parent / "objects" / "stray").write_bytes(b"?")
        assert [info.key async for info in queue.objects.list()] == ["a/b"]
        claim = await queue.claim("q")
        assert claim is not None
        assert (claim.id, claim.payload) == (receipt.id, b"x" * 100)
