"""The web application of the examples: a real server of several processes, asked over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from taquba import JobRecord, JobStatus, LeaseHandle, Queue, QueueConfig
from taquba.testing import drain
from tests.service.web import ask, outbox, running, until

UVICORN = ["uvicorn", "examples.web_fastapi:app", "--workers", "8", "--fd", "{fd}"]
GUNICORN = ["gunicorn", "examples.web_fastapi:app", "--workers", "3", "--preload"]
GUNICORN += ["--worker-class", "asgi", "--bind", "fd://{fd}"]
CLIENTS = 8


class Load:
    """Clients that post mails, one after the other; each is posted until it is acknowledged."""

    def __init__(self, site: str) -> None:
        self.mails: list[str] = []
        """The ids that were acknowledged."""
        self.pids: set[int] = set()
        """The processes that acknowledged them."""
        self._site = site
        self._numbers = itertools.count()
        self._enough = threading.Event()

    @contextmanager
    def posting(self) -> Iterator[None]:
        with ThreadPoolExecutor(CLIENTS) as threads:
            clients = [threads.submit(self._post) for _ in range(CLIENTS)]
            try:
                yield
            finally:
                self._enough.set()
            for client in clients:
                client.result()

    def goes_on(self) -> None:
        """Wait until more mails were acknowledged."""
        target = len(self.mails) + 50
        until(lambda: len(self.mails) >= target)

    def _post(self) -> None:
        while not self._enough.is_set():
            number = next(self._numbers)
            reply = ask(
                "POST",
                f"{self._site}/mails",
                json={"to": f"{number}@example.com", "text": "hello"},
                headers={"Idempotency-Key": f"mail {number}"},
            )
            self.mails.append(reply["id"])
            self.pids.add(reply["pid"])
            time.sleep(0.01)

    def worker_of(self, mail: str) -> str:
        """The process that ran a mail, or is about to."""
        return str(ask("GET", f"{self._site}/mails/{mail}")["worker"])


def owner_of(site: str, *, other_than: int | None = None) -> int:
    """The process that says that it is the owner; any process may be the one that is asked."""
    found = None

    def is_found() -> bool:
        nonlocal found
        reply = ask("GET", f"{site}/role")
        if reply["role"] == "owner" and reply["pid"] != other_than:
            found = reply["pid"]
        return found is not None

    until(is_found)
    assert found is not None
    return found


async def settled_mails(store: Path) -> list[str]:
    """The mails of a store that no process uses any more, once for each settlement."""

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        """One that the owner had sent when it was killed may not have had its turn again."""

    async with Queue.open(
        store, inbox=True, default_config=QueueConfig(keep_done_jobs=3600)
    ) as queue:
        await queue.ingest_now()
        await drain(queue, "mail", handle)
        jobs = (await queue.list_jobs("mail", JobStatus.DONE, limit=10_000)).jobs
        assert (await queue.stats("mail")).done == len(jobs)
        return [job.id for job in jobs]


@pytest.mark.parametrize(
    ("server", "processes"), [(UVICORN, 8), (GUNICORN, 3)], ids=["uvicorn", "gunicorn with preload"]
)
def test_a_server_of_many_processes_outlives_its_owner(
    server: list[str], processes: int, tmp_path: Path, listener: socket.socket, site: str
) -> None:
    load = Load(site)
    with running(server, tmp_path, listener):
        with load.posting():
            until(lambda: len(load.pids) >= processes)
            owner = owner_of(site)
            os.kill(owner, signal.SIGKILL)
            owner_of(site, other_than=owner)
            load.goes_on()
        until(lambda: set(load.mails) <= outbox(tmp_path))
        # Whichever process is asked, it is the owner who knows.
        until(lambda: ask("GET", f"{site}/mails/{load.mails[-1]}")["state"] == "done")
        until(lambda: len(set(map(load.worker_of, load.mails[:50]))) > 1)
    settled = asyncio.run(settled_mails(tmp_path / "store"))
    assert sorted(settled) == sorted(load.mails)
