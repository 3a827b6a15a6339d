"""Each thing that the queue needs of a store is seen missing, by name and with a remedy."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import timedelta
from pathlib import Path

import pytest
from slatedb.uniffi import DbBuilder, WriteBatch

import taquba.doctor
from taquba import InvalidArgument, Queue
from taquba._engine.object_store import connect_engine
from taquba._model import keys
from taquba._objects.client import Client
from taquba._objects.location import StoreLocation
from taquba._objects.probe import Probe
from taquba.doctor import Check, Diagnosis, examine
from taquba.doctor._folder import file_system
from tests.servers.faulty_s3 import FaultyS3, StoredObject

BUCKET_CHECKS = [
    "reach",
    "write",
    "read after write",
    "list after write",
    "delete",
    "conditional create",
    "concurrent creates",
    "conditional update",
    "clock",
    "contents",
    "payloads: reach",
    "payloads: write",
    "payloads: read after write",
    "payloads: list after write",
    "payloads: delete",
    "payloads: clock",
]


def names(diagnosis: Diagnosis) -> list[str]:
    return [check.name for check in diagnosis.checks]


def check(diagnosis: Diagnosis, name: str) -> Check:
    (found,) = [check for check in diagnosis.checks if check.name == name]
    return found


async def test_a_store_that_does_everything_is_well(s3: FaultyS3) -> None:
    diagnosis = await examine("s3://bucket/prefix")
    assert diagnosis.failures == ()
    assert diagnosis.ok
    assert diagnosis.contents == "nothing"
    assert diagnosis.url == "s3://bucket/prefix"
    assert names(diagnosis) == BUCKET_CHECKS
    for name in ("write", "read after write", "list after write", "delete"):
        round_trip = check(diagnosis, name).round_trip_ms
        assert round_trip is not None
        assert 0 < round_trip < 1000
    assert all(check.remedy is None for check in diagnosis.checks)
    assert s3.objects == {}
    touched = {what.split("/")[0] for _, what, _ in s3.requests if what}
    assert touched == {"prefix", "prefix-payloads"}


# Fault -> the checks that fail, and words of their remedies.
FAULTS = {
    "unconditional creates": (["conditional create", "concurrent creates"], "If-None-Match"),
    "overwriting refusals": (["conditional create", "concurrent creates"], "If-None-Match"),
    "torn creates": (["concurrent creates"], "If-None-Match"),
    "refused updates": (["conditional update"], "If-Match"),
    "unconditional updates": (["conditional update"], "If-Match"),
    "stale lists": (["list after write"], "listings"),
    "pretended deletes": (["delete"], "delete"),
    "refused deletes": (["delete"], "allow these credentials to delete"),
    "read only": (["write"], "allow them to list, read, write and delete"),
    "unknown key": (["reach"], "AWS_ACCESS_KEY_ID"),
    "wrong secret": (["reach"], "AWS_SECRET_ACCESS_KEY"),
    "no rights": (["reach"], "allow them"),
    "no bucket": (["reach"], "create it"),
    "other region": (["reach"], "AWS_REGION"),
    "skewed request": (["reach"], "NTP"),
    "busy": (["reach"], "try again later"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_a_store_does_not_do_is_found(s3: FaultyS3, fault: str) -> None:
    s3.faults.add(fault)
    diagnosis = await examine("s3://bucket/prefix")
    failing, remedy = FAULTS[fault]
    of_store = [check.name for check in diagnosis.failures if "payloads" not in check.name]
    assert of_store == failing
    assert not diagnosis.ok
    for failure in diagnosis.failures:
        assert failure.detail
        assert remedy in (failure.remedy or "")
    if fault not in ("refused deletes", "pretended deletes"):
        assert s3.objects == {}


async def test_stale_reads_are_found(s3: FaultyS3) -> None:
    s3.faults.add("stale reads")
    failure = check(await examine("s3://bucket/prefix"), "read after write")
    assert not failure.ok
    assert "cache" in (failure.remedy or "")


@pytest.mark.parametrize(
    ("skew", "found"),
    [
        (timedelta(minutes=5), "30[0-9] s ahead of|299 s ahead of"),
        (timedelta(minutes=-5), "(299|300|301) s behind"),
    ],
)
async def test_a_clock_that_is_wrong_is_found(s3: FaultyS3, skew: timedelta, found: str) -> None:
    s3.clock_skew = skew
    failure = check(await examine("s3://bucket/prefix"), "clock")
    assert not failure.ok
    assert re.search(found, failure.detail)
    assert "NTP" in (failure.remedy or "")


async def test_a_clock_that_is_nearly_right_is_fine(s3: FaultyS3) -> None:
    s3.clock_skew = timedelta(seconds=3)
    assert check(await examine("s3://bucket/prefix"), "clock").ok


async def test_a_store_that_never_answers_is_given_up(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taquba._objects.client._TIMEOUT", 0.2)
    s3.faults.add("silent")
    (failure,) = (await examine("s3://bucket/prefix")).checks
    assert failure.detail == "the store does not answer"
    assert "AWS_ENDPOINT" in (failure.remedy or "")


async def test_an_endpoint_where_nothing_listens_is_named(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    (failure,) = (await examine("s3://bucket/prefix")).checks
    assert "http://127.0.0.1:9 does not answer" in failure.detail


async def test_the_probe_of_an_examination_that_is_cancelled_is_removed(s3: FaultyS3) -> None:
    task = asyncio.ensure_future(examine("s3://bucket/prefix"))
    async with asyncio.timeout(10):
        while not s3.objects:  # noqa: ASYNC110 - the server is in another thread
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert s3.objects == {}


async def test_a_store_and_its_owner_are_seen_and_not_disturbed(s3: FaultyS3) -> None:
    async with Queue.open("s3://bucket/prefix", heartbeat_interval=0.2) as owner:
        await owner.enqueue("q", b"1")
        before = set(s3.objects)
        diagnosis = await examine("s3://bucket/prefix")
        assert diagnosis.ok
        assert diagnosis.contents == "store"
        assert f"layout {keys.FORMAT_VERSION}" in check(diagnosis, "contents").detail
        assert diagnosis.owner is not None
        assert diagnosis.owner.presence == "present"
        assert diagnosis.owner.reason in check(diagnosis, "owner").detail
        await owner.enqueue("q", b"2")
        assert not [key for key in set(s3.objects) - before if "probe" in key]


async def test_payloads_elsewhere_are_examined_as_well(s3: FaultyS3, tmp_path: Path) -> None:
    diagnosis = await examine(tmp_path, payload_url="s3://bucket/payloads")
    assert diagnosis.ok
    assert "payloads: delete" in names(diagnosis)
    s3.faults.add("read only")
    diagnosis = await examine(tmp_path, payload_url="s3://bucket/payloads")
    assert [check.name for check in diagnosis.failures] == ["payloads: write"]


async def test_payloads_are_kept_next_to_the_store_where_others_may_have_no_rights(
    s3: FaultyS3,
) -> None:
    s3.faults.add("read only neighbours")
    diagnosis = await examine("s3://bucket/prefix")
    assert [check.name for check in diagnosis.failures] == ["payloads: write"]
    assert "AccessDenied" in diagnosis.failures[0].detail


async def test_other_objects_are_seen(s3: FaultyS3) -> None:
    async with Queue.open("s3://bucket/prefix/below"):
        pass
    diagnosis = await examine("s3://bucket/prefix")
    assert diagnosis.contents == "other objects"
    assert [check.name for check in diagnosis.failures] == ["contents"]
    # Its neighbours by name are not below it.
    assert (await examine("s3://bucket/pre")).contents == "nothing"


async def test_a_folder_is_examined_and_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    diagnosis = await examine(folder)
    assert diagnosis.ok
    assert diagnosis.contents == "nothing"
    assert diagnosis.url == str(folder)
    assert {"write", "free space", "fsync", "clock"} <= set(names(diagnosis))
    assert "conditional update" not in names(diagnosis)
    assert os.listdir(tmp_path) == []


async def test_a_store_in_a_folder_is_left_as_it_was(tmp_path: Path) -> None:
    async with Queue.open(tmp_path) as owner:
        await owner.enqueue("q", b"1")
        before = set(os.listdir(tmp_path))
        diagnosis = await examine(tmp_path)
        assert diagnosis.ok
        assert diagnosis.contents == "store"
        await owner.enqueue("q", b"2")
        assert set(os.listdir(tmp_path)) == before


async def test_a_folder_with_other_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    diagnosis = await examine(tmp_path)
    assert diagnosis.contents == "other objects"
    assert "thesis.tex" in check(diagnosis, "contents").detail


@pytest.mark.parametrize("kind", ["a file", "below a file", "no folders can be made"])
async def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    if kind == "below a file":
        path = path / "store"
    elif kind == "no folders can be made":
        path = Path("/proc/sys")
        if not path.exists():
            pytest.skip("this platform has no /proc")
    diagnosis = await examine(path)
    assert not diagnosis.ok
    failure = diagnosis.failures[0]
    assert failure.name in ("reach", "write")
    assert "local folder" in (failure.remedy or "")


async def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    diagnosis = await examine(locked / "store")
    assert [check.name for check in diagnosis.failures] == ["write"]


@pytest.mark.allow_blocking("the test itself connects to the folder")
async def test_a_foreign_database_is_told(tmp_path: Path) -> None:
    foreign = await DbBuilder("", connect_engine(StoreLocation.parse(tmp_path))).build()

    async def write(key: bytes) -> None:
        batch = WriteBatch()
        batch.put(key, b"")
        await foreign.write(batch)
        await foreign.flush()

    await write(b"user:1")
    diagnosis = await examine(tmp_path)
    assert diagnosis.contents == "foreign database"
    assert "taquba did not make" in check(diagnosis, "contents").detail
    await write(b"user:2")
    await foreign.shutdown()


async def test_another_layout_is_told(tmp_path: Path) -> None:
    async with Queue.open(tmp_path):
        pass
    (tmp_path / "taquba.json").write_text('{"format": "taquba", "layout": 99}')
    diagnosis = await examine(tmp_path)
    assert diagnosis.contents == "other layout"
    assert "layout 99" in check(diagnosis, "contents").detail


async def test_a_store_in_memory_has_nothing_to_try_out() -> None:
    diagnosis = await examine("memory://")
    assert diagnosis.ok
    assert names(diagnosis) == ["reach", "contents"]
    async with Queue.open("memory://examined") as queue:
        await queue.enqueue("q", b"")
        assert (await examine("memory://examined")).contents == "store"


@pytest.mark.parametrize("url", ["", "redis://localhost", "s3://bucket"])
async def test_an_unusable_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        await examine(url)
    with pytest.raises(InvalidArgument):
        await examine("memory://", payload_url=url)


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
nas:/export /mnt nfs4 rw 0 0
/dev/sdb1 /mnt/with\\040space xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/var/lib/app", "ext4"), ("/mnt/app", "nfs4"), ("/mnt/with space/app", "xfs")],
)
def test_the_file_system_of_a_folder(tmp_path: Path, folder: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert file_system(Path(folder), mounts) == kind
    assert file_system(Path(folder), tmp_path / "none") is None


async def test_a_probe_uses_names_of_its_own(s3: FaultyS3) -> None:
    client = await Client.connect(StoreLocation.parse("s3://bucket/prefix"))
    assert Probe(client).prefix != Probe(client).prefix


def test_public_names_are_frozen_and_documented() -> None:
    assert taquba.doctor.__all__ == ["Check", "Contents", "Diagnosis", "examine"]
    for value in (Check, Diagnosis, examine):
        assert not (value.__doc__ or "Check(").startswith(f"{value.__name__}(")


async def test_a_hole_in_the_log_is_named(s3: FaultyS3) -> None:
    queue = await Queue.open("s3://bucket/prefix")
    await queue.enqueue("q", b"")
    newest = max(key for key in s3.objects if "/wal/" in key)
    hole = f"{int(newest[-24:-4]) + 1:020d}.sst"
    s3.objects[f"{newest[:-24]}{int(newest[-24:-4]) + 2:020d}.sst"] = StoredObject(b"", s3.now())
    found = check(await examine("s3://bucket/prefix"), "write-ahead log")
    assert not found.ok
    assert f"wal/{hole} was never written" in found.detail
    assert "mends it" in (found.remedy or "")
    async with Queue.open("s3://bucket/prefix") as successor:
        assert (await successor.stats("q")).pending == 1
        assert check(await examine("s3://bucket/prefix"), "write-ahead log").ok
    await queue.close()


async def test_a_write_ahead_file_that_was_deleted_is_named(s3: FaultyS3) -> None:
    async with Queue.open("s3://bucket/prefix") as queue:
        for _ in range(5):
            await queue.enqueue("q", b"")
        deleted = sorted(key for key in s3.objects if "/wal/" in key)[3]
        del s3.objects[deleted]
        found = check(await examine("s3://bucket/prefix"), "write-ahead log")
    assert not found.ok
    assert f"{deleted.removeprefix('prefix/')} is missing" in found.detail
    assert "backup" in (found.remedy or "")
