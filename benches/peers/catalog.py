"""The peers: what their drivers say of themselves, and the environments made from it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

from benches._harness import ROOT

DRIVERS = Path(__file__).parent / "drivers"
# Ignored by git; `make clean` removes it.
CACHE = ROOT / ".peers"
STORES = ("folder", "redis", "postgres", "sqlite")
_METADATA = re.compile(r"^# /// script\n(?P<body>(?:#(?: .*)?\n)+?)# ///$", re.MULTILINE)


class Unavailable(Exception):
    """A peer, or a server that it needs, cannot be had here; the message says why."""


@dataclass(frozen=True)
class Peer:
    """One line of the table: a driver on one of its stores."""

    driver: str
    store: str
    name: str
    dependencies: tuple[str, ...]
    settings: tuple[str, ...]

    @property
    def version(self) -> str:
        """The peer's own release: its first dependency."""
        return self.dependencies[0].partition("==")[2] if self.dependencies else "this checkout"

    @property
    def module(self) -> str:
        return f"benches.peers.drivers.{self.driver}"

    def configured(self, concurrency: int) -> str:
        """The settings in words."""
        return ", ".join(self.settings).format(concurrency=concurrency)

    def python(self) -> str:
        """The interpreter of the peer's environment, which is made on first use."""
        if not self.dependencies:
            return sys.executable
        return str(environment(self.driver, self.dependencies) / "bin" / "python")


def peers() -> list[Peer]:
    """All of them, taquba first."""
    found = [
        peer
        for path in sorted(DRIVERS.glob("*.py"))
        if path.name != "__init__.py"
        for peer in _peers_of(path)
    ]
    return sorted(found, key=lambda peer: peer.name != "taquba")


def _peers_of(path: Path) -> list[Peer]:
    match = _METADATA.search(path.read_text("utf-8"))
    if match is None:
        raise ValueError(f"{path} has no inline script metadata")
    lines = match["body"].splitlines()
    metadata = tomllib.loads("\n".join(line[2:] for line in lines))
    about = metadata["tool"]["peer"]
    return [
        Peer(
            driver=path.stem,
            store=store,
            name=path.stem if len(about["stores"]) == 1 else f"{path.stem}-{store}",
            dependencies=tuple(metadata["dependencies"]),
            settings=tuple(about["settings"]),
        )
        for store in about["stores"]
    ]


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """A virtual environment with these requirements, kept for the next run."""
    wanted = "\n".join([sys.version, *requirements])
    folder = CACHE / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    made = folder / ".made"
    if made.exists():
        return folder
    print(f"installing {', '.join(requirements)}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", *requirements],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["pip failed"]
        raise Unavailable(f"cannot be installed: {reason[-1]}")
    made.touch()
    return folder
