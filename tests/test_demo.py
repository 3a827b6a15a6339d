"""The demo, run as its reader runs it, on small trees of awkward files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parent.parent / "examples" / "demo.py"
TIMEOUT_SECONDS = 60


def run_demo(*arguments: str | bytes | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEMO, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def numbers(output: str) -> dict[str, int]:
    return {
        name: int(number)
        for name, number in re.findall(r"^([a-z/ ]+?) +(\d+)$", output, re.MULTILINE)
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "a tree"
    for number in range(60):
        below = folder / f"folder {number % 3}" / "ünï ☃"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"file {number}\n.txt").write_text("three short words\n" * number)
    (folder / "empty").touch()
    (folder / "large").write_bytes(b"word " * 1_000_000)
    (folder / "nowhere").symlink_to("missing")
    os.mkfifo(folder / "pipe")
    hidden = folder / ".git"
    hidden.mkdir()
    (hidden / "skipped").touch()
    try:
        (folder / os.fsdecode(b"not \xff UTF-8")).touch()
    except OSError:
        # Some file systems (macOS's) take only UTF-8 names; one more plain file keeps the count.
        (folder / "UTF-8").touch()
    return folder


def test_a_killed_worker_costs_repetitions_but_no_job_and_no_second_settlement(tree: Path) -> None:
    result = run_demo(tree)
    assert result.returncode == 0, result.stdout + result.stderr
    found = numbers(result.stdout)
    assert found["jobs"] == 63
    assert found["redelivered"] >= 1
    assert found["lost"] == found["settled twice"] == 0
    assert found["jobs/s"] > 0
    assert "results equal to a new look at the files: 63;" in result.stdout
    assert re.search(r"worker \d+: killed after \d+ of 63 jobs", result.stdout)
    assert re.search(r"worker \d+: finished after 63 of 63 jobs", result.stdout)


def test_the_number_of_jobs_can_be_limited_and_the_store_kept(tree: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = run_demo(tree, "--jobs", "2", "--store", store)
    assert result.returncode == 0, result.stdout + result.stderr
    assert numbers(result.stdout)["jobs"] == 2
    assert numbers(result.stdout)["redelivered"] == 1
    assert (store / "wal").is_dir()

    again = run_demo(tree, "--store", store)
    assert again.returncode == 1
    assert "holds jobs already; give another --store" in again.stderr
    assert "Traceback" not in again.stderr


def test_an_empty_folder_is_no_work(tmp_path: Path) -> None:
    result = run_demo(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert set(numbers(result.stdout).values()) == {0}


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "missing")
    assert result.returncode == 2
    assert f"{tmp_path / 'missing'} is not a folder" in result.stderr


def test_an_interrupt_ends_both_processes(tree: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", DEMO, tree],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "started" in line:
                break
        # What a terminal does on Ctrl-C: every process of the group gets the signal.
        os.killpg(demo.pid, signal.SIGINT)
        # The worker writes to the same pipe for errors: this returns when both have ended.
        _, errors = demo.communicate(timeout=TIMEOUT_SECONDS)
    assert demo.returncode == 130
    assert errors == "stopped\n"
