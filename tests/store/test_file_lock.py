"""A lock is let go at once, by an owner that closes it and by one that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from taquba._objects.file_lock import FileLock
from taquba._objects.owner_lock import is_held

OWNER_WITH_A_CHILD = """
import os, signal, sys
from pathlib import Path
from taquba._objects.owner_lock import OwnerLock

lock = OwnerLock(Path(sys.argv[1]), 0)
if os.fork() == 0:
    print("forked", flush=True)
    sys.stdin.read()
    os._exit(0)
signal.pause()
"""


def test_a_lock_that_is_closed_is_free_though_a_child_has_not_closed_its_copy_yet(
    tmp_path: Path,
) -> None:
    lock = FileLock(tmp_path / "lock", create=True)
    assert lock.take()
    copy = os.dup(lock.fileno())
    lock.close()
    other = FileLock(tmp_path / "lock")
    assert other.take()
    other.close()
    os.close(copy)


def test_a_forked_child_does_not_keep_the_lock_of_an_owner_that_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER_WITH_A_CHILD, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"forked\n"
        assert is_held(tmp_path) is True
        owner.kill()
        owner.wait()
        assert is_held(tmp_path) is False
