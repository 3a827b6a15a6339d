from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taquba import Queue
from tests.conformance.suite import StoreConformance, acknowledged
from tests.crash.children import read_reports
from tests.crash.worker_child import CONFIG, Child


class TestMemory(StoreConformance):
    @pytest.fixture
    def url(self) -> str:
        return f"memory://{uuid.uuid4().hex}"

    @contextlib.asynccontextmanager
    async def dead_owner(self, url: str, log: Path, seed: int) -> AsyncIterator[list[list[str]]]:
        """The store dies with its process, so here the owner stops in the middle of its work."""
        queue = await Queue.open(url, default_config=CONFIG)
        file = os.open(log, os.O_WRONLY | os.O_CREAT)
        work = asyncio.create_task(Child(queue, file, seed).run())
        await acknowledged(log)
        work.cancel()
        await asyncio.wait([work])
        os.close(file)
        yield read_reports(log)
        # It was fenced by the next owner.
        await queue.close()
