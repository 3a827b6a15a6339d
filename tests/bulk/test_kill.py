"""A batch that is killed again and again ends with the output of one that was not."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.bulk.bulk_child import PHASES, WORKERS
from tests.bulk.support import rows_of
from tests.conftest import LONG

CHILD = Path(__file__).with_name("bulk_child.py")
KILLS = 60 if LONG else 3
ITEMS = 4000 if LONG else 150
SECONDS = 120


def start(folder: Path) -> subprocess.Popen[bytes]:
    calls = folder / "calls"
    calls.touch()
    return subprocess.Popen(
        [
            sys.executable,
            str(CHILD),
            str(folder / "store"),
            str(folder / "out.jsonl"),
            str(calls),
            str(ITEMS),
        ]
    )


def kill_after(
    child: subprocess.Popen[bytes], calls: Path, size: int, chance: random.Random
) -> bool:
    """Kill a process some time after a number of bytes of calls; whether it still ran."""
    deadline = time.monotonic() + SECONDS
    try:
        while calls.stat().st_size < size and child.poll() is None:
            assert time.monotonic() < deadline, "the child does not work"
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)
        return child.poll() is None
    finally:
        child.kill()
        child.wait()


def uninterrupted(folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    assert start(folder).wait(SECONDS) == 0
    return rows_of(folder / "out.jsonl")


def test_a_batch_survives_kill_9(tmp_path: Path) -> None:
    expected = uninterrupted(tmp_path / "whole")
    assert len(expected) == ITEMS
    killed = tmp_path / "killed"
    killed.mkdir()
    calls = killed / "calls"
    calls.touch()
    whole_size = (tmp_path / "whole" / "calls").stat().st_size
    chance = random.Random()
    kills = 0
    for _ in range(KILLS):
        share = whole_size * 2 // (KILLS + 2)
        size = calls.stat().st_size + int(chance.random() * share)
        kills += kill_after(start(killed), calls, size, chance)
    assert kills > 0
    assert start(killed).wait(SECONDS) == 0
    assert rows_of(killed / "out.jsonl") == expected
    made = Counter(calls.read_text().splitlines())
    assert len(made) == ITEMS * PHASES
    # A kill costs at most the calls that were under way.
    assert made.total() <= ITEMS * PHASES + kills * WORKERS
