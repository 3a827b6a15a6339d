"""A forked child that touches an inherited queue is told so at once, and ends as it should."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fork_child.py")
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.parametrize("how", ["fork", "multiprocessing", "coroutine"])
@pytest.mark.parametrize("store", ["memory", "folder"])
def test_a_forked_child_is_refused_and_its_parent_works_on(
    tmp_path: Path, how: str, store: str
) -> None:
    url = "memory://" if store == "memory" else str(tmp_path / "store")
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), url, how],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.stdout.splitlines() == ["child 0", "parent 2"], ran.stderr
    assert ran.returncode == 0, ran.stderr
    # The child says nothing in the name of a store that its parent has open.
    assert not ran.stderr
