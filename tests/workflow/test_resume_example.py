"""The example that is stopped at any moment and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "workflow_resume.py"
PAGES = 12


def start(store: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            str(EXAMPLE),
            "--store",
            str(store),
            "--pages",
            str(PAGES),
            "--seconds",
            "0.05",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_the_book_is_complete_however_often_its_printing_is_stopped(
    tmp_path: Path, how: signal.Signals
) -> None:
    chance = random.Random()
    told = ""
    for _ in range(3):
        process = start(tmp_path / "store")
        assert process.stdout is not None
        # Its first line says that it works.
        told += process.stdout.readline()
        time.sleep(chance.random() * 0.3)
        os.kill(process.pid, how)
        output, errors = process.communicate(timeout=60)
        told += output
        assert errors == ""
        assert process.returncode in (0, -how)
    process = start(tmp_path / "store")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert "going on where it stopped" in output
    assert f"succeeded: {PAGES} pages, {PAGES} in the book" in output
    told += output
    # The first process may have been stopped before it was told.
    assert told.count("a new run\n") <= 1
    assert all(f"page {page} of {PAGES}" in told for page in range(1, PAGES + 1))
