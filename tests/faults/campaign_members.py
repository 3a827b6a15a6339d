"""Services of a campaign: members of one store that own it in turn, and enqueue all the time."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from taquba import Service, TaqubaError, WorkerSpec
from tests.faults.campaign_report import Report
from tests.faults.campaign_work import AT_ONCE, LIMIT, QUEUE, handler, payload_of

_TAKEOVER_SECONDS: Final = 2


class Members:
    """The members of one service, all in this process.

    Args:
        url: Where the store is; it exists.
        report: What comes of them.
        seed: Of their chances.
        until: When they end, by the monotonic clock.
    """

    def __init__(self, url: str, report: Report, seed: int, until: float) -> None:
        self._url = url
        self._report = report
        self._seed = seed
        self._until = until
        self._worker = WorkerSpec("w", handler(report), concurrency=AT_ONCE)

    async def take_part(self, number: int) -> None:
        """Join again and again, and leave, or be cut off."""
        chance = random.Random(f"{self._seed} member {number}")
        while (left := self._until - time.monotonic()) > 0:
            service = Service(
                self._url,
                [self._worker],
                takeover_after=_TAKEOVER_SECONDS,
                drain_timeout=5,
                default_config=QUEUE,
                payload_offload_threshold=LIMIT,
            )
            stay = min(left, chance.uniform(2, 12))
            try:
                if chance.random() < 0.3:
                    # Whatever it was doing is cancelled.
                    async with asyncio.timeout(stay):
                        await self._produce(service, chance, float("inf"))
                else:
                    await self._produce(service, chance, time.monotonic() + stay)
            except TimeoutError:
                pass
            except TaqubaError as error:
                # A refusal that passes ends no service.
                self._report.wrong.append(f"a service ended: {str(error)[:200]}")

    async def _produce(self, service: Service, chance: random.Random, until: float) -> None:
        role = "producer"
        async with service:
            while time.monotonic() < until:
                payload = payload_of(chance)
                await self._report.acknowledge(service.enqueue("w", payload), payload)
                if service.role != role:
                    role = service.role
                    self._report.calls["terms"] += role == "owner"
                await asyncio.sleep(chance.uniform(0, 0.05))
