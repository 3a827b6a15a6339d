"""The web application of the examples: a real server of several processes, asked over HTTP."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.service.web import ask, outbox, running, until

UVICORN = ["uvicorn", "examples.web_fastapi:app", "--workers", "3", "--fd", "{fd}"]
GUNICORN = ["gunicorn", "examples.web_fastapi:app", "--workers", "3", "--preload"]
GUNICORN += ["--worker-class", "asgi", "--bind", "fd://{fd}"]


def post_mails(site: str, count: int) -> set[str]:
    def post(number: int) -> str:
        mail = {"to": f"{number}@example.com", "text": "hello"}
        return str(ask("POST", f"{site}/mails", json=mail)["id"])

    with ThreadPoolExecutor(8) as threads:
        return set(threads.map(post, range(count)))


def owners(site: str) -> set[int]:
    """Processes that say to be the owner; asked often enough for all to answer."""
    replies = [ask("GET", f"{site}/role") for _ in range(20)]
    return {reply["pid"] for reply in replies if reply["role"] == "owner"}


@pytest.mark.parametrize("server", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn with preload"])
def test_a_server_of_many_processes_outlives_its_owner(
    server: list[str], tmp_path: Path, listener: socket.socket, site: str
) -> None:
    with running(server, tmp_path, listener):
        sent = post_mails(site, 40)
        assert len(sent) == 40
        until(lambda: len(owners(site)) == 1)
        (owner,) = owners(site)
        os.kill(owner, signal.SIGKILL)
        sent |= post_mails(site, 40)
        until(lambda: sent <= outbox(tmp_path))
        until(lambda: len(owners(site)) == 1)
        assert owners(site) != {owner}
        # Whichever process is asked, it is the owner who knows.
        (mail,) = post_mails(site, 1)
        until(lambda: ask("GET", f"{site}/mails/{mail}") == {"state": "done"})
