"""What the tests of batches share."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from taquba import QueueConfig

T = TypeVar("T")

REAL_SECONDS = 60
"""Bound on what a test waits for in real time; nothing here takes nearly as long."""

EAGER = QueueConfig(retry_backoff_base=0, retry_jitter=0)
"""Retries at once."""

PATIENT = QueueConfig(max_attempts=10**6, retry_backoff_base=0, retry_jitter=0)
"""A crash spends an attempt; here there are enough."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of an output, in the order of the inputs."""
    return sorted(map(json.loads, path.read_bytes().splitlines()), key=lambda row: row["index"])


def fresh_url() -> str:
    """A memory store of its own that can be opened more than once."""
    return f"memory://{uuid.uuid4().hex}"


async def async_inputs(values: Iterable[T]) -> AsyncIterator[T]:
    for value in values:
        yield value


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(REAL_SECONDS):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, not only events
            await asyncio.sleep(0.001)
