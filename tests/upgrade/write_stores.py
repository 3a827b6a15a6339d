"""Writes the stores of the present version into ``stores/``.

    python -m tests.upgrade.write_stores

One whose owner closed it, and one whose owner was killed: its last commits are in the write-ahead
log. What a release has written stays as it is, so a file that is there is not written again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

from tests.upgrade.contents import write

ROOT = Path(__file__).parent.parent.parent
STORES = Path(__file__).parent / "stores"
ENDS = {"closed": 0, "killed": -signal.SIGKILL}
"""How the writer's process ends."""


def present_version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project["version"])


def packed(version: str, end: str) -> Path:
    return STORES / f"{version}-{end}.tar.xz"


async def write_and_end(folder: Path, end: str) -> None:
    queue = await write(folder / "store")
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    await queue.close()


def main() -> int:
    for end in ENDS:
        file = packed(present_version(), end)
        if file.exists():
            print(f"{file} is there already; remove it if that version is not released yet")
            return 1
        with tempfile.TemporaryDirectory() as folder:
            writer = subprocess.run(
                [sys.executable, "-m", __spec__.name, folder, end], cwd=ROOT, check=False
            )
            assert writer.returncode == ENDS[end], f"the writer has ended with {writer.returncode}"
            with tarfile.open(file, "w:xz") as archive:
                for path in sorted(Path(folder).iterdir()):
                    archive.add(path, path.name)
        print(f"{file}: {file.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(write_and_end(Path(sys.argv[1]), sys.argv[2]))
    else:
        sys.exit(main())
