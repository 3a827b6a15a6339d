"""Servers of the examples as processes of their own, and requests to them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
PATIENCE = 60

# A connection for each request, so that all processes get some.
_client = httpx.Client(timeout=PATIENCE, limits=httpx.Limits(max_keepalive_connections=0))


@contextmanager
def running(arguments: list[str], folder: Path, listener: socket.socket) -> Iterator[None]:
    """A module of Python as a process of its own; a clean end is asked for, and awaited."""
    fd = str(listener.fileno())
    process = subprocess.Popen(
        [sys.executable, "-m", *(argument.format(fd=fd) for argument in arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "STORE": str(folder / "store"),
            "OUTBOX": str(folder / "outbox"),
            "PYTHONPATH": str(ROOT),
        },
        # A socket that listens already, so that a client that comes early waits.
        pass_fds=[listener.fileno()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # So that what the server has started can be ended with it.
        start_new_session=True,
    )
    try:
        yield
        process.terminate()
        # uvicorn repeats the signal that it ended by, once it has shut down.
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.02)


def outbox(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "outbox").glob("*.txt")}


def ask(method: str, url: str, **options: Any) -> Any:
    """The reply to a request, which is made again when the process that got it is killed."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            reply = _client.request(method, url, **options)
        except httpx.TransportError:
            assert time.monotonic() < deadline
            continue
        assert reply.status_code in (200, 202, 404), reply.text
        return reply.json()
