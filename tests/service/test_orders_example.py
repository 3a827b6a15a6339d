"""The example of a whole application: real servers and workers, asked over HTTP, and killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.service.web import PATIENCE, ROOT, ask, running, until

APP = "examples.orders_fastapi"
ORDER = {"item": "chair", "quantity": 3}


@contextmanager
def worker(folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """A process that only works, ended when the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "taquba", "run", f"{APP}:service"],
        cwd=ROOT,
        env={**os.environ, "STORE": str(folder / "store"), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
        if process.poll() is None:
            process.terminate()
            assert process.wait(PATIENCE) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def order(site: str, number: int) -> None:
    assert ask("POST", f"{site}/orders/{number}", json=ORDER) == str(number)


def approve(site: str, number: int) -> None:
    ask("POST", f"{site}/orders/{number}/approval")


def invoiced(site: str, number: int) -> dict[str, Any]:
    """An order, once its invoice is there."""
    found: dict[str, Any] = {}

    def is_there() -> bool:
        found.update(ask("GET", f"{site}/orders/{number}"))
        return found.get("state") == "succeeded"

    until(is_there)
    assert found["invoice"]["text"] == "3 chair"
    return found


def test_an_order_is_approved_in_one_process_and_goes_on_in_any(
    tmp_path: Path, listener: socket.socket, site: str
) -> None:
    server = ["uvicorn", f"{APP}:app", "--workers", "3", "--fd", "{fd}"]
    with running(server, tmp_path, listener):
        for number in range(10):
            order(site, number)
            order(site, number)
        for number in range(10):
            approve(site, number)
        asked = {invoiced(site, number)["asked"] for number in range(10)}
        assert ask("GET", f"{site}/schedules") == ["nightly report"]
    assert asked


def test_web_processes_only_ask_and_workers_work_also_when_one_dies(
    tmp_path: Path, listener: socket.socket, site: str, monkeypatch: Any
) -> None:
    with worker(tmp_path) as first, worker(tmp_path) as second:
        monkeypatch.setenv("ROLE", "producer")
        server = ["uvicorn", f"{APP}:app", "--workers", "2", "--fd", "{fd}"]
        with running(server, tmp_path, listener):
            workers = {first.pid, second.pid}
            for number in range(20):
                order(site, number)
            for number in range(20):
                if number == 10:
                    first.send_signal(signal.SIGKILL)
                    first.wait()
                approve(site, number)
            pids = {invoiced(site, number)["invoice"]["pid"] for number in range(20)}
            assert pids <= workers
            assert second.pid in pids
