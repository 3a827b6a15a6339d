"""The same, with the worker in the process that is not the owner, until nothing is left to do."""

from __future__ import annotations

from typing import Any

import pytest

from taquba import JobRecord, LeaseHandle, Service, run_worker
from tests.webhooks import support, test_delivery, test_effects


class Counting:
    """A handler that counts its attempts."""

    def __init__(self, handler: Any) -> None:
        self._handle = getattr(handler, "process", handler)
        self.attempts = 0

    async def process(self, job: JobRecord, lease: LeaseHandle) -> Any:
        self.attempts += 1
        return await self._handle(job, lease)


async def drain(store: Service, queue: str, handler: Any) -> int:
    counting = Counting(handler)
    await run_worker(store, queue, counting, concurrency=1, until_empty=True)
    return counting.attempts


@pytest.fixture(autouse=True)
def drained_by_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (support, test_delivery, test_effects):
        monkeypatch.setattr(module, "drain", drain)
