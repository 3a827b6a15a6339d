"""``python -m benches``: list the benches, run one, or run all of them with small sizes."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benches._harness import Bench

USAGE = """\
usage: python -m benches                    this list
       python -m benches NAME [options]     one bench; NAME --help shows its options
       python -m benches all [options]      all of them with small sizes: do they work?
       python -m benches.peers [options]    beside other job queues, which it installs

common options: --store memory|folder|folder-nosync|URL  --runs N  --json FILE
"""


def names() -> list[str]:
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(
        module.name for module in found if not module.ispkg and not module.name.startswith("_")
    )


def load(name: str) -> Bench:
    bench = importlib.import_module(f"benches.{name}").BENCH
    assert isinstance(bench, Bench)
    return bench


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        for name in names():
            print(f"{name:18} {load(name).question}")
        return 0
    chosen, *options = arguments
    if chosen == "all":
        for name in names():
            bench = load(name)
            bench.main(["--runs", "1", *bench.small, *options])
            print()
        return 0
    if chosen not in names():
        print(f"there is no bench {chosen!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    load(chosen).main(options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
