"""The examples that are stopped at any moment and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taquba import QueueConfig

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PAGES = 12


def start(example: str, store: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            str(EXAMPLES / example),
            "--store",
            str(store),
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_the_book_is_complete_however_often_its_printing_is_stopped(
    tmp_path: Path, how: signal.Signals
) -> None:
    arguments = ("--pages", str(PAGES), "--seconds", "0.05")
    told = stop_and_start(how, "workflow_resume.py", tmp_path / "store", *arguments)
    assert f"succeeded: {PAGES} pages, {PAGES} in the book" in told
    # The first process may have been stopped before it was told.
    assert told.count("a new run\n") <= 1
    assert all(f"page {page} of {PAGES}" in told for page in range(1, PAGES + 1))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_every_step_of_the_order_is_in_the_ledger_once(tmp_path: Path, how: signal.Signals) -> None:
    arguments = ("--parcels", "3", "--seconds", "0.1")
    told = stop_and_start(how, "workflow_order.py", tmp_path / "store", *arguments)
    assert told.endswith("3 parcels, 5 lines in the ledger\n")
    assert told.count("a new order\n") <= 1


@pytest.mark.parametrize(
    ("example", "first"), [("workflow_order.py", "charge"), ("workflow_resume.py", "page 1")]
)
def test_a_step_may_be_killed_more_often_than_a_job_has_attempts(
    tmp_path: Path, example: str, first: str
) -> None:
    arguments = ("--seconds", "0.2")
    for _ in range(QueueConfig().max_attempts + 1):
        process = start(example, tmp_path / "store", *arguments)
        assert process.stdout is not None
        assert any(line.startswith(first) for line in process.stdout)
        # Until the claim is durable: only then does the attempt count.
        time.sleep(0.1)
        process.kill()
        process.communicate(timeout=60)
    process = start(example, tmp_path / "store", *arguments)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, ""), output


def stop_and_start(how: signal.Signals, example: str, store: Path, *arguments: str) -> str:
    """Run an example, stop it three times, and let it come to its end; returns what it said."""
    chance = random.Random()
    told = ""
    for _ in range(3):
        process = start(example, store, *arguments)
        assert process.stdout is not None
        # Its first line says that it works.
        told += process.stdout.readline()
        time.sleep(chance.random() * 0.3)
        os.kill(process.pid, how)
        output, errors = process.communicate(timeout=60)
        told += output
        assert errors == ""
        assert process.returncode in (0, -how)
    process = start(example, store, *arguments)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert "going on where it stopped" in output
    return told + output
