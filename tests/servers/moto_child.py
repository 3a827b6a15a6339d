"""moto's S3 server, with one bucket, until standard input closes."""

from __future__ import annotations

import logging
import sys

import requests
from moto.server import ThreadedMotoServer


def main(bucket: str) -> None:
    # It would log every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    requests.put(f"{endpoint}/{bucket}", timeout=30).raise_for_status()
    print(endpoint, flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(sys.argv[1])
