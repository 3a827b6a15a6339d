"""The one way to change the store: a list of rows, counter changes, and what follows from them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from taquba._model.errors import TaqubaError
from taquba._model.keys import Op
from taquba._rules.transitions import Change


class Transaction:
    """Rows and counter changes that land together, in one commit.

    `on_applied` callbacks run when the commit is visible, in the order of commits, whether or not
    anybody still waits for it: memory follows the store. `on_failed` callbacks run instead when
    it is known that nothing was written. `freed` names the payload objects of the jobs that leave:
    they may go when the commit is durable.
    """

    __slots__ = (
        "began",
        "changes",
        "durable",
        "freed",
        "on_applied",
        "on_failed",
        "ops",
        "waiter",
    )

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.ops: list[Op] = []
        self.changes: list[Change] = []
        """Of jobs; their rows are in `ops`."""
        self.on_applied: list[Callable[[], None]] = []
        self.on_failed: list[Callable[[], None]] = []
        self.freed: list[str] = []
        self.durable = False
        self.waiter: asyncio.Future[None] | None = None

    def add(self, change: Change) -> None:
        self.ops += change.ops
        self.changes.append(change)
        if change.status is None and change.job.payload_ref is not None:
            self.freed.append(change.job.payload_ref)

    def put(self, key: bytes, value: bytes) -> None:
        self.ops.append((key, value))

    def delete(self, key: bytes) -> None:
        self.ops.append((key, None))

    def finally_(self, callback: Callable[[], None]) -> None:
        """Run `callback` when the transaction is applied or known to have failed."""
        self.on_applied.append(callback)
        self.on_failed.append(callback)

    def applied(self) -> None:
        for callback in self.on_applied:
            callback()

    def abandon(self) -> None:
        """Nothing was or will be written: undo what memory anticipated."""
        for callback in self.on_failed:
            callback()

    def failed(self, error: TaqubaError) -> None:
        """Nothing was written: undo, and tell the caller."""
        self.abandon()
        self.resolve(error)

    def resolve(self, error: TaqubaError | None = None) -> None:
        """Answer the caller, if it still waits."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error.again())
                # A caller that was cancelled does not collect its error.
                waiter.exception()
