"""What a killed owner's engine was writing is removed by the next owner."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from taquba import Queue

CHILD = """
import asyncio, sys
from taquba import Queue
async def main():
    queue = await Queue.open(sys.argv[1], fsync=False)
    print("open", flush=True)
    while True:
        await asyncio.gather(*(queue.enqueue("q", b"x" * 200_000) for _ in range(20)))
asyncio.run(main())
"""
WRITTEN = ("wal", "manifest", "compacted", "compactions")


def unfinished(store: Path) -> list[str]:
    return sorted(file.name for file in store.glob("*/*") if "#" in file.name)


async def test_files_that_a_killed_owner_was_writing_are_removed(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"open\n"
    # As soon as one of them is seen half written.
    deadline = time.monotonic() + 5
    while not unfinished(tmp_path) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0)
    child.kill()
    await child.wait()
    names = {
        "wal": "00000000000000009999.sst#1",
        "compacted": "01KB8W0000000000000000000A.sst#1",
        "compactions": "00000000000000000009.compactions#2",
        "manifest": "00000000000000000009.manifest#1",
    }
    for folder, name in names.items():
        left = tmp_path / folder / name
        left.parent.mkdir(exist_ok=True)
        left.write_bytes(b"half")
        os.utime(left, (time.time() - 2, time.time() - 2))
    (tmp_path / "wal" / "notes#1.txt").write_text("somebody else's")
    async with Queue.open(tmp_path, fsync=False):
        pass
    assert unfinished(tmp_path) == ["notes#1.txt"]


async def test_files_that_a_living_owner_may_be_writing_are_left(tmp_path: Path) -> None:
    first = await Queue.open(tmp_path)
    young = tmp_path / "wal" / "00000000000000009998.sst#1"
    old = tmp_path / "wal" / "00000000000000009999.sst#1"
    for file, age in ((young, 5), (old, 300)):
        file.write_bytes(b"half")
        os.utime(file, (time.time() - age, time.time() - age))
    async with Queue.open(tmp_path, take_over=True):
        assert young.exists()
        assert not old.exists()
    await first.close()
