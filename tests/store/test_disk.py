"""What is wrong with a folder or its files is told by name."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from taquba import Queue, StoreError
from taquba._engine.damage import damage_in
from taquba._objects.disk import hindrance, intruder

CHILD = Path(__file__).with_name("crashing_child.py")

LOOK = """
import sys
from pathlib import Path
from taquba._objects.disk import hindrance
found = hindrance(Path(sys.argv[1]))
print(found and f"{found.what}; {found.remedy}")
"""


def look_in(mount: Path, options: str, before: str) -> str:
    """What is told of a small file system, seen by a process that alone sees it."""
    script = (
        f"mount -t tmpfs -o {options} tmpfs {mount} && {before}; {sys.executable} -c '{LOOK}' ."
    )
    command = ["unshare", "--mount", "sh", "-c", script.replace(" .", f" {mount}")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if ran.returncode:
        pytest.skip("no file system can be mounted here")
    return ran.stdout.strip()


@pytest.mark.parametrize(
    ("options", "before", "words"),
    [
        ("size=1m", "dd if=/dev/zero of={0}/fill bs=64k 2>/dev/null", "is full; free some space"),
        ("nr_inodes=2", "touch {0}/one", "no inodes left"),
        ("size=4m", "mount -o remount,ro {0}", "is read-only"),
    ],
)
def test_why_a_file_system_takes_no_file_is_told(
    tmp_path: Path, options: str, before: str, words: str
) -> None:
    assert words in look_in(tmp_path, options, before.format(tmp_path))


def test_a_process_with_too_many_open_files_is_told(tmp_path: Path) -> None:
    limit = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (3, r.getrlimit(r.RLIMIT_NOFILE)[1]))"
    )
    look = LOOK.replace("found =", f"{limit}\nfound =")
    ran = subprocess.run(
        [sys.executable, "-c", look, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "too many open files; raise its limit (ulimit -n)" in ran.stdout


async def test_too_many_open_files_are_survived_for_a_while(tmp_path: Path) -> None:
    script = """
import asyncio, os, resource as r, sys
from taquba import Queue
async def main():
    queue = await Queue.open(sys.argv[1])
    await queue.enqueue("q", b"")
    soft, hard = r.getrlimit(r.RLIMIT_NOFILE)
    r.setrlimit(r.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
    enough = lambda: r.setrlimit(r.RLIMIT_NOFILE, (soft, hard))
    asyncio.get_running_loop().call_later(2, enough)
    for _ in range(5):
        await queue.enqueue("q", b"")
    print((await queue.stats("q")).pending)
    await queue.close()
asyncio.run(main())
"""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert out == b"6\n"


def test_a_folder_that_takes_files_is_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    assert hindrance(tmp_path) is None
    assert intruder(tmp_path) is None
    assert [file.name for file in tmp_path.rglob("*")] == ["wal"]


async def crashed(store: Path) -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), str(store), "5")
    assert await child.wait() == 0


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("folder", "damage"),
    [
        ("wal", flip),
        ("wal", cut),
        ("wal", zero),
        ("wal", replace_by_folder),
        ("manifest", cut),
        ("manifest", zero),
        ("manifest", replace_by_folder),
        ("compactions", cut),
        ("compactions", replace_by_folder),
    ],
)
async def test_a_damaged_file_is_named(tmp_path: Path, folder: str, damage: object) -> None:
    assert callable(damage)
    await crashed(tmp_path)
    file = max(file for file in (tmp_path / folder).iterdir() if file.stat().st_size)
    damage(file)
    with pytest.raises(StoreError, match=f"{folder}/{file.name}") as caught:
        async with asyncio.timeout(20):
            await Queue.open(tmp_path)
    assert caught.value.permanent
    assert "restore that file from a backup" in str(caught.value)


async def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    async with Queue.open(tmp_path) as queue:
        for _ in range(5):
            await queue.enqueue("q", b"x" * 500)
    file = max((tmp_path / "compacted").iterdir())
    flip(file)
    with pytest.raises(StoreError, match=f"compacted/{file.name} is damaged") as caught:
        async with Queue.open(tmp_path) as queue:
            await queue.claim_batch("q", 10)
    assert "compactions/" not in str(caught.value)


@pytest.mark.parametrize("damage", [flip, cut, zero, Path.unlink])
async def test_no_other_file_is_blamed_for_a_damaged_table(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    for _ in range(2):
        async with Queue.open(tmp_path) as queue:
            for _ in range(30):
                await queue.enqueue("q", b"x" * 100)
            await queue.claim_batch("q", 3)
    damage(max((tmp_path / "compacted").iterdir()))
    with pytest.raises(StoreError, match="compacted/") as caught:
        async with Queue.open(tmp_path) as queue:
            await queue.list_jobs("q", "pending")
    assert "compactions/" not in str(caught.value)
    assert "restore that file from a backup" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "Data error: wal truncated at wal file `33`",
        "Data error: object store error (Object at location wal/0.sst not found. status code: 404)",
        "Unavailable error: wal unavailable (object store error)",
        "Unavailable error: object store error (error sending request)",
    ],
)
def test_what_a_store_answered_is_not_taken_for_damage(text: str) -> None:
    assert damage_in(text) is None
