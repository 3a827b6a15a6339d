"""The fixtures of a queue, as the handle of a process that is not the owner."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from taquba import Queue, Service
from taquba.testing import MockClock, OpenQueue

LEFT_OUT = (
    # Opening and closing a store: only an owner does that.
    "after_close",
    "another_layout",
    "something_else",
    "closing_ends",
    "closed_queue_ends",
    "after_a_reopen",
    "in_any_turn",
    # Time that passes while a call is on its way to the owner, which the clock does not know of.
    "a_cancelled_waiter",
    "a_scheduled_job_is_woken",
    "when_time_is_up",
    "retention_removed",
    "retention_removes_it",
    # What was asked for in one turn of the event loop, and is under way when it is looked at.
    "cancel_and_claim_at_the_same_time",
    "under_concurrent_producers",
    "a_job_wakes_one_of_those",
    # An owner with an inbox looks at it every few seconds.
    "a_hundred_years",
    # What an owner remembers of the ids that it has handed out.
    "handed_out_is_looked_up",
    "handed_out_and_not_used",
    # What is seen of a worker loop inside its owner, or in the same turn of the event loop.
    "a_return_acknowledges",
    "ensure_at_least_extends",
    "told_that_its_hold_is_over",
    "closing_the_queue",
    "an_empty_queue",
    "only_when_nothing_else_is_left",
    "a_look_that_fails",
    "after_the_end_nothing_is_claimed",
    "a_loop_that_fails_ends",
    # Time that passes in one leap: the owner takes that for a sleep of its own.
    "a_lost_claim_is_logged",
    # The store writes nothing before the handler runs: a process is made known to it before.
    "dedup_key_of_its_own_job",
    # Jobs of the package, whose runner needs the owner.
    "of_a_typed_job",
    # Rows of the store: batches of producers leave marks for some time.
    "cancel_and_ack_at_the_same_time",
    "duplicate_own_id_within_a_batch",
    "a_retry_that_waits_is_removed",
    # Batches in whose midst years pass, second by second for the member.
    "a_cache_keeps_for_ever",
    "what_has_expired_is_swept",
    "is_used_while_it_is_fresh",
)


class Handle(Service):
    """A member's handle; what only an owner has is the owner's."""

    behind: Queue

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


@pytest.fixture
async def open_queue(short_path: Path, mock_clock: MockClock) -> AsyncIterator[OpenQueue]:
    numbers = itertools.count()
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(url: str | None = None, **options: Any) -> Any:
            if url is not None and str(url).startswith("memory:"):
                pytest.skip("a store in memory has no other processes")
            options = {"clock": mock_clock, "fsync": False, **options}
            place = short_path / f"store{next(numbers)}" if url is None else url
            owner = await stack.enter_async_context(
                await Queue.open(place, inbox=True, producer_socket=True, **options)
            )
            handle = Handle(place, {}, role="producer", **options)
            handle.behind = owner
            return await stack.enter_async_context(handle)

        yield open_one


@pytest.fixture
async def queue(open_queue: OpenQueue) -> Any:
    return await open_queue()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests are the same, but for a few."""
    items[:] = [
        item
        for item in items
        if "tests/members/" not in item.nodeid or not any(what in item.name for what in LEFT_OUT)
    ]
