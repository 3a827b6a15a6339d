"""The web application of the examples, as a real server, asked by a real client."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent.parent
APP = "examples.jobs_fastapi:app"


@contextmanager
def serving(store: Path, seconds_per_page: str) -> Iterator[str]:
    """Run uvicorn; a clean end is asked for, and awaited."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # It inherits a socket that listens already, so nobody can take the port, and a client
        # that comes early waits.
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "uvicorn",
                APP,
                "--workers",
                "3",
                "--fd",
                str(listener.fileno()),
            ],
            cwd=ROOT,
            env={**os.environ, "STORE": str(store), "SECONDS_PER_PAGE": seconds_per_page},
            pass_fds=[listener.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/openapi.json", timeout=60).status_code == 200
        yield url
        server.terminate()
        # uvicorn repeats the signal that it ended by, once it has shut down.
        assert server.wait(20) in (0, -15)
    finally:
        server.kill()
        server.wait()


def test_requests_submit_watch_await_and_cancel_jobs(tmp_path: Path) -> None:
    order = {"customer": "acme", "month": "2030-01", "pages": 2}
    with serving(tmp_path / "store", "0.01") as url, httpx.Client(base_url=url) as client:
        submitted = client.post("/reports", json=order)
        assert submitted.status_code == 202
        place = submitted.headers["location"]
        result = client.get(f"{place}/result")
        assert result.json() == {
            "customer": "acme",
            "month": "2030-01",
            "text": "page 1 of acme\npage 2 of acme",
        }
        assert client.get(place).json()["state"] == "succeeded"
        assert client.post("/reports", json=order).headers["location"] == place
        assert client.post("/reports", json={**order, "pages": 3}).status_code == 409
        assert client.post("/reports", json={**order, "month": "May"}).status_code == 422
        assert client.get("/reports/unknown").status_code == 404
        assert client.get("/reports/unknown/result").status_code == 404

        endless = client.post("/reports", json={**order, "month": "2030-02", "pages": 1000})
        place = endless.headers["location"]
        assert client.get(f"{place}/result", params={"wait": 0.05}).status_code == 504
        seen = client.get(place).json()
        assert (seen["state"], seen["total"]) == ("running", 1000)
        assert client.delete(place).json() == "requested"
        assert client.get(f"{place}/result").status_code == 410
        assert client.get(place).json()["state"] == "failed"


def test_results_outlive_the_server(tmp_path: Path) -> None:
    order = {"customer": "acme", "month": "2030-01", "pages": 1}
    with serving(tmp_path / "store", "0.01") as url:
        place = httpx.post(f"{url}/reports", json=order).headers["location"]
        before = httpx.get(f"{url}{place}/result").json()
    with serving(tmp_path / "store", "60") as url:
        assert httpx.get(f"{url}{place}/result").json() == before
