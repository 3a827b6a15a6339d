"""What came of a campaign; see `campaign`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Any, Final

from taquba import StoreError, TaqubaError

log: Final = logging.getLogger("campaign")


@dataclass
class Report:
    """What came of a campaign.

    Attributes:
        acknowledged: Jobs that a producer or the owner said are durable, with their payload's size.
        openings: Of the owner.
        failed_openings: What those that ended in an error said.
        stops: Why owners stopped that nobody stopped.
        refused: Calls of producers that ended in an error, by what they said.
        wrong: Every answer that was not what had been acknowledged.
    """

    acknowledged: dict[str, int] = field(default_factory=dict[str, int])
    calls: Counter[str] = field(default_factory=Counter[str])
    openings: int = 0
    failed_openings: list[str] = field(default_factory=list[str])
    stops: list[str] = field(default_factory=list[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    lost: list[str] = field(default_factory=list[str])
    twice: int = 0
    dead: int = 0
    requests: int = 0
    struck: int = 0

    async def acknowledge(self, enqueueing: Awaitable[Any], payload: bytes) -> None:
        """Note what becomes of a call that makes a job."""
        try:
            receipt = await enqueueing
        except TaqubaError as error:
            self.refuse(error)
            return
        self.acknowledged[receipt.id] = len(payload)

    def refuse(self, error: TaqubaError) -> None:
        kind = "permanent" if error.permanent else "transient"
        self.refused[f"{kind}: {str(error)[:160]}"] += 1

    def failed_opening(self, error: BaseException) -> None:
        self.failed_openings.append(str(error)[:200])
        log.error("an opening failed: %s", error, exc_info=error)

    def check(self) -> None:
        """Every promise was kept."""
        assert not self.lost, self.lost
        assert not self.twice, self.twice
        assert not self.dead, self.dead
        assert not self.wrong, self.wrong
        assert not self.failed_openings, self.failed_openings

    def __str__(self) -> str:
        lines = [
            f"{self.requests} requests, {self.struck} answered oddly",
            f"{len(self.acknowledged)} jobs acknowledged: lost {len(self.lost)}, "
            f"settled twice {self.twice}, dead {self.dead}",
            f"{self.openings} openings, {len(self.failed_openings)} of them failed; "
            f"{len(self.stops)} owners stopped by themselves",
            f"calls that went well: {dict(self.calls)}",
            f"calls of producers that failed: {dict(self.refused)}",
            f"wrong answers: {len(self.wrong)}",
        ]
        for name in ("failed_openings", "stops", "wrong", "lost"):
            lines += [f"  {name}: {text}" for text in Counter(getattr(self, name))]
        return "\n".join(lines)


@contextlib.asynccontextmanager
async def patiently() -> AsyncIterator[None]:
    """Let a call fail for the store's sake, and rest a moment afterwards."""
    try:
        yield
    except (StoreError, TimeoutError):
        await asyncio.sleep(0.05)


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
