"""Batches of a campaign: each in a process that is killed and started again until it is through."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.faults.batch_child import CANNOT_OPEN, PRICE, STORE_FAILED, answer_to
from tests.faults.campaign_report import Report, log

_CHILD: Final = Path(__file__).with_name("batch_child.py")
_ITEMS: Final = 60


class Batches:
    """One batch after the other, in one store.

    Args:
        url: Where the store is.
        folder: Where outputs, and the callee's list of calls, are written.
        report: What comes of them.
        seed: Of the kills.
        until: When the last one is no longer killed, by the monotonic clock.
    """

    def __init__(self, url: str, folder: Path, report: Report, seed: int, until: float) -> None:
        self._url = url
        self._folder = folder
        self._report = report
        self._chance = random.Random(f"{seed} batches")
        self._until = until
        self._number = 0
        self._is_through = True

    async def run(self) -> None:
        """Run batches, and kill their processes, until the time is over."""
        while (left := self._until - time.monotonic()) > 0:
            if self._is_through:
                self._number += 1
            seconds = self._chance.uniform(1.5, 6) if self._chance.random() < 0.7 else 30
            self._is_through = await self._once(min(left, seconds))
            if self._is_through:
                self._check()

    async def finish(self) -> None:
        """See the last one through, now that nothing is answered oddly any more."""
        if not self._is_through:
            if not await self._once(120):
                self._report.wrong.append(f"batch {self._number} does not end")
            self._check()

    @property
    def _calls(self) -> Path:
        return self._folder / f"calls{self._number}"

    @property
    def _rows(self) -> Path:
        return self._folder / f"rows{self._number}.jsonl"

    async def _once(self, seconds: float) -> bool:
        """Whether the batch came to its end within so long; its process is killed otherwise."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"tests.faults.{_CHILD.stem}"),
            *(self._url, f"batch{self._number}", str(self._rows), str(self._calls), str(_ITEMS)),
            cwd=_CHILD.parents[2],
            stderr=asyncio.subprocess.PIPE,
        )
        talking = asyncio.create_task(process.communicate())
        await asyncio.wait((talking,), timeout=seconds)
        if killed := not talking.done():
            process.kill()
        _, said = await talking
        if killed:
            self._report.calls["batches killed"] += 1
        elif process.returncode == CANNOT_OPEN:
            self._report.failed_openings.append(f"of a batch: {last_line(said)}")
            log.error("an opening of a batch failed: %s", said.decode())
        elif process.returncode == STORE_FAILED:
            self._report.stops.append(f"of a batch: {last_line(said)}")
            log.error("a batch was stopped: %s", said.decode())
        elif process.returncode:
            self._report.wrong.append(f"a batch ended: {last_line(said)}")
            log.error("a batch ended: %s", said.decode())
        return process.returncode == 0

    def _check(self) -> None:
        """Each item has one row, with the answer of the one call that was made for it."""
        name = f"batch {self._number}"
        rows = [json.loads(line) for line in self._rows.read_bytes().splitlines()]
        rows.sort(key=lambda row: row["index"])
        expected = [(n, answer_to(n), {"usd": PRICE}) for n in range(_ITEMS)]
        if [(row["index"], row.get("output"), row["cost"]) for row in rows] != expected:
            self._report.wrong.append(f"rows of {name}: {rows}")
        made = Counter(self._calls.read_text().split())
        if len(made) != _ITEMS or made.total() != _ITEMS:
            again = [key for key, times in made.items() if times > 1]
            self._report.wrong.append(f"calls of {name}: {len(made)} items, {again} again")
        self._report.calls["batches"] += 1


def last_line(said: bytes) -> str:
    return said.decode().strip().rpartition("\n")[2][:300]
