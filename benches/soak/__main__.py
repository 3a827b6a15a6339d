"""``python -m benches.soak``: run a soak and check it, or check again what one left behind."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benches._harness import machine
from benches.soak.checker import EXAMINED, Verdict, check_folder
from benches.soak.conduct import Conductor, times_of
from benches.soak.members.checker import check_folder as check_members
from benches.soak.members.conduct import soak_members
from benches.soak.places import a_place

MOST_SHOWN = 40


async def soak(kind: str, folder: Path, seconds: float, rate: float, seed: int) -> bool:
    """Run a soak on a new store; whether everything held."""
    await asyncio.to_thread(folder.mkdir, parents=True)
    async with a_place(kind, folder, seed) as place:
        conductor = Conductor(place, folder, times_of(seconds), rate, seed)
        try:
            await conductor.trouble()
            await conductor.examine("left.json")
            await conductor.drain()
            await conductor.examine("drained.json")
        finally:
            await conductor.close()
    return await asyncio.to_thread(report, folder)


def report(folder: Path) -> bool:
    """Check a soak's folder and print the verdict; whether everything held."""
    if (folder / "stored.json").exists():
        verdict = check_members(folder)
        print(f"{folder}:\n{shown(verdict)}\n", flush=True)
        return not verdict.violations
    held = True
    for file, when in EXAMINED.items():
        verdict = check_folder(folder, file)
        print(f"{folder}, {when}:\n{shown(verdict)}\n", flush=True)
        held = held and not verdict.violations
    return held


def shown(verdict: Verdict) -> str:
    lines = [f"  {count:>10,}  {what}" for what, count in sorted(verdict.tally.items())]
    lines += [
        f"  {first:>10.4g}  {last:>10.4g}  {what} (first third, last third)"
        for what, (first, last) in verdict.trends.figures.items()
    ]
    lines += [f"  VIOLATION {violation}" for violation in verdict.violations[:MOST_SHOWN]]
    found = len(verdict.violations)
    lines.append(f"  {found} violations" if found else "  every promise was kept")
    return "\n".join(lines)


async def soak_all(
    kinds: Sequence[str], folder: Path, seconds: float, rate: float, seed: int
) -> bool:
    soaks = (soak(kind, folder / kind, seconds, rate, seed) for kind in kinds)
    return all(await asyncio.gather(*soaks))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benches.soak",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=10, help="of trouble")
    length.add_argument("--hours", type=float, help="of trouble")
    parser.add_argument("--store", choices=("folder", "s3", "both"), default="folder")
    parser.add_argument("--rate", type=float, default=100, help="jobs per second at most")
    parser.add_argument(
        "--members",
        type=int,
        help="processes of a service that work, instead of owners; on a folder",
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1000), help="of the troubles")
    parser.add_argument("--out", type=Path, help="where histories go; default: a new folder")
    parser.add_argument("--check", type=Path, help="only check the folder of a former soak")
    options = parser.parse_args(arguments)
    if options.check is not None:
        return 0 if report(options.check) else 1
    seconds = options.minutes * 60 if options.hours is None else options.hours * 3600
    folder = options.out or Path(tempfile.mkdtemp(prefix="taquba-soak-")) / "run"
    kinds = ("folder", "s3") if options.store == "both" else (options.store,)
    print(f"{machine()}\nseed {options.seed}, histories in {folder}", flush=True)
    if options.members is not None:
        soaking = soak_members(
            folder,
            seconds=seconds,
            members=options.members,
            rate=options.rate,
            seed=options.seed,
        )
        asyncio.run(soaking)
        return 0 if report(folder) else 1
    held = asyncio.run(soak_all(kinds, folder, seconds, options.rate, options.seed))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
