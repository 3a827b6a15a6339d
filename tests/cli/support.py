"""Running the command line: in this process, where only its behaviour counts, or as a child."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from taquba import EnqueueRequest, Queue, QueueConfig
from taquba._cli.app import run
from taquba.testing import MockClock

PATIENCE = 60
"""Seconds that a child may take on a busy machine."""


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Taquba:
    """The command line in this process, on one store."""

    def __init__(self, capsys: pytest.CaptureFixture[str], store: Path) -> None:
        self._capsys = capsys
        self.store = store

    def __call__(self, *arguments: str) -> Result:
        self._capsys.readouterr()
        code = run([*arguments, "--store", str(self.store)])
        captured = self._capsys.readouterr()
        return Result(int(code), captured.out, captured.err)

    def ok(self, *arguments: str) -> Result:
        result = self(*arguments)
        assert result.code == 0, result
        return result

    def all_jobs(self) -> list[Any]:
        return self.ok("jobs", "list", "--limit", "1000", "--json").lines


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("TAQUBA_STORE", "NO_COLOR", "COLUMNS", "FORCE_COLOR")
    }
    return {**kept, "TERM": "xterm-256color", **more}


def start(*arguments: str, cwd: Path | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start the command line as a child process."""
    defaults: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": environment(),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "taquba", *arguments], cwd=cwd, text=True, **(defaults | options)
    )


def finish(child: subprocess.Popen[str]) -> Result:
    try:
        out, err = child.communicate(timeout=PATIENCE)
    finally:
        child.kill()
        child.wait()
    return Result(child.returncode, out or "", err or "")


class Owner:
    """A process that has a store open, and does what it is told."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child

    def tell(self, line: str) -> str:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()


@contextmanager
def owner(store: Path) -> Iterator[Owner]:
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("owner_child.py")), str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield Owner(child)
    finally:
        child.kill()
        child.communicate()


def make_store(folder: Path) -> None:
    """A store as an application leaves it: jobs in every state, dead ones of different ages."""
    asyncio.run(_make_store(folder))


async def _make_store(folder: Path) -> None:
    clock = MockClock(datetime.now(UTC) - timedelta(days=10))
    kept = QueueConfig(keep_done_jobs=timedelta(days=30), dead_retention=None)
    async with Queue.open(folder, clock=clock, default_config=kept) as queue:
        await queue.enqueue("mail", b"to a", job_id="dead-old", headers={"trace": "t1"})
        await _kill(queue, "no such address\nreally \x1b[31mnot\x1b[0m")
        await clock.advance(timedelta(days=9, hours=23))
        await queue.enqueue("mail", b"to b", job_id="dead-new", max_attempts=2)
        claim = await queue.claim("mail")
        assert claim is not None
        await queue.nack(claim, "timeout")
        await queue.wake_scheduled("dead-new", b"now")
        await _kill(queue, "Timeout again")
        await queue.enqueue("reports", b"", job_id="done")
        claim = await queue.claim("reports")
        assert claim is not None
        await queue.ack(claim)
        await clock.advance(timedelta(hours=1))
        await queue.enqueue_batch(
            [
                EnqueueRequest("mail", b"to c", job_id="pending", dedup_key="c"),
                EnqueueRequest("reports", b"\xff\x00", job_id="scheduled", delay=3600),
            ]
        )
        await queue.kv_put("config/limit", b"100")
        await queue.kv_put(b"\xff/binary", b"\x00\x01")


async def _kill(queue: Queue, error: str) -> None:
    claim = await queue.claim("mail")
    assert claim is not None
    await queue.dead_letter(claim, error)
