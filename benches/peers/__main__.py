"""``python -m benches.peers``: the same work for taquba and for other job queues."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benches._harness import Place, machine
from benches.peers.catalog import Peer, peers
from benches.peers.report import markdown, plain
from benches.peers.runner import COLUMNS, Result, Work, measure


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    work = Work(options.jobs, options.idle_jobs, options.concurrency, options.seconds)
    place: Place = options.store
    where = [
        machine(),
        f"data: {_disk(place)}",
        f"{work.jobs:,} no-op jobs of 64 bytes, {work.concurrency} at a time; "
        f"{work.idle_jobs} for the idle latency; medians of {options.rounds} alternating round(s)",
    ]
    print("\n".join(where), end="\n\n", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="taquba-peers-", ignore_cleanup_errors=True) as scratch:
        # PostgreSQL runs as another user than root, and has its folder in here.
        Path(scratch).chmod(0o711)
        results = measure(options.peers, work, options.rounds, Path(scratch))
    if options.markdown:
        print(markdown(where, work.concurrency, results), flush=True)
    else:
        print(plain(results), flush=True)
    if options.json:
        _write_json(options.json, where, work, results)
    return 1 if any(result.failure for result in results) else 0


def _disk(place: Place) -> str:
    """Where the data of all peers is, and whether that is a disk at all."""
    kind = _filesystem(Path(tempfile.gettempdir()))
    if kind in ("tmpfs", "ramfs"):
        return f"{place.describe()}: {kind} IS MEMORY, not a disk; set TMPDIR to a folder on one"
    return f"{place.describe()}, {kind}"


def _filesystem(folder: Path) -> str:
    """The type of the file system, where the system tells."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return "file system unknown"
    folder = folder.resolve()
    above = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benches.peers",
        description="The same work for taquba and for other job queues, at durable settings.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(store=Place("folder"))
    every = ",".join(peer.name for peer in peers())
    parser.add_argument("--peers", type=chosen, default=every, help="names, with commas")
    parser.add_argument("--jobs", type=at_least(2), default=5000, help="per peer and round")
    parser.add_argument("--idle-jobs", type=at_least(1), default=200, help="one at a time")
    parser.add_argument(
        "--concurrency", type=at_least(1), default=50, help="producers, and handlers at a time"
    )
    parser.add_argument("--rounds", type=at_least(1), default=3, help="to take medians of")
    parser.add_argument(
        "--seconds", type=at_least(1), default=180, help="time limit of each half of a round"
    )
    parser.add_argument("--markdown", action="store_true", help="print a table for README.md")
    parser.add_argument("--json", metavar="FILE", help="also write medians and all rounds here")
    return parser


def chosen(text: str) -> list[Peer]:
    known = {peer.name: peer for peer in peers()}
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(
                f"there is no peer {name!r}; there are {', '.join(known)}"
            )
    return [known[name] for name in names]


def at_least(smallest: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        number = int(text)
        if number < smallest:
            raise argparse.ArgumentTypeError(f"must be at least {smallest}, got {number}")
        return number

    return integer


def _write_json(file: str, where: list[str], work: Work, results: list[Result]) -> None:
    report = {
        "where": where,
        "jobs": work.jobs,
        "idle_jobs": work.idle_jobs,
        "concurrency": work.concurrency,
        "peers": [
            {
                "peer": result.peer.name,
                "version": result.peer.version,
                "dependencies": result.peer.dependencies,
                "settings": result.peer.configured(work.concurrency),
                "durability": result.durability,
                "failure": result.failure,
                "medians": {column: result.median(column) for column in COLUMNS},
                "rounds": result.rounds,
            }
            for result in results
        ],
    }
    Path(file).write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def _terminated(number: int, frame: object) -> None:
    """SIGTERM cleans up as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted: servers are stopped, their data is removed", file=sys.stderr)
        sys.exit(130)
