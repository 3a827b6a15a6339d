"""Stored records of items and of a batch's output, and the records that callers see."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import msgpack

from taquba.extending import UNREADABLE, WordEnum
from taquba_bulk._costs import Costs

Out = TypeVar("Out")

_log: Final = logging.getLogger(__name__)


class ItemStatus(WordEnum):
    """How an item has ended."""

    SUCCEEDED = "succeeded"
    """It has an output."""
    FAILED = "failed"
    """It failed for good, with a reason."""
    CANCELLED = "cancelled"
    """Its run was cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRecord(Generic[Out]):
    """An item that has ended.

    Attributes:
        index: Position of its input, from 0.
        key: Its key.
        run_id: Its id, which is the key if that is a valid id of a run.
        status: How it has ended.
        output: What the pipeline returned; None unless it succeeded.
        error: Why it failed or was cancelled; None if it succeeded.
        cost: Its cost, by metric.
        plain_output: The output as plain data, for a sink that writes it.
    """

    index: int
    key: str
    run_id: str
    status: ItemStatus
    output: Out | None
    error: str | None
    cost: Mapping[str, float]
    plain_output: object


class ItemRow(NamedTuple):
    """The stored record of an item that has ended, beside its run."""

    status: ItemStatus
    costs: dict[str, int]
    written: int
    """Generation of the output that its row is in; 0 for none."""
    input_hash: bytes

    def encode(self) -> bytes:
        # Packs a StrEnum as the str it is.
        packed: bytes = msgpack.packb(self)
        return packed

    @classmethod
    def decode(cls, run_id: str, data: bytes) -> ItemRow | None:
        """The row of an item; None if it cannot be read: its run has the outcome."""
        try:
            row = cls(*msgpack.unpackb(data))
            if not isinstance(row.input_hash, bytes):
                raise TypeError(f"{row.input_hash!r} is not a hash")
            return row._replace(status=ItemStatus(row.status), costs=Costs(row.costs).packed())
        except UNREADABLE as error:
            _log.warning(
                "the row of item %r is made anew, because it cannot be read: %s", run_id, error
            )
            return None

    def amounts(self) -> dict[str, float]:
        return Costs(self.costs).amounts()


class OutputRow(NamedTuple):
    """How far a batch's output is written.

    Everything up to `position` is written and counts; `newest` are the items of the last group,
    whose own rows may not yet say that they are written.
    """

    generation: int
    position: bytes
    newest: list[str]
    run: str = ""
    """The run that wrote this; empty where an earlier release did."""

    def encode(self) -> bytes:
        packed: bytes = msgpack.packb(self)
        return packed

    @classmethod
    def decode(cls, data: bytes) -> OutputRow | None:
        """How far an output is written; None if that cannot be read: it is begun anew."""
        try:
            row = cls(*msgpack.unpackb(data))
            if not isinstance(row.position, bytes) or type(row.generation) is not int:
                raise TypeError(
                    f"{row.position!r:.100} in {row.generation!r:.100} is not a position"
                )
            return row._replace(newest=[run_id for run_id in row.newest if type(run_id) is str])
        except UNREADABLE as error:
            _log.warning("the position of the output cannot be read: %s", error)
            return None


class Keys:
    """Where the rows of a batch are kept."""

    def __init__(self, queue_name: str) -> None:
        # Without slashes, so that no batch's keys are below another's.
        base = f"taquba_bulk/{quote(queue_name, safe='')}"
        self.items = f"{base}/item/"
        """Prefix of the rows of all items."""
        self.output = f"{base}/output"
        self.budget = f"{base}/budget"
        self.rates = f"{base}/rate/"
        """Prefix of the grants of rate limits."""
        self.run = f"{base}/run"
        """The process that runs the batch."""
        self.helpers = f"{base}/helper/"
        """Prefix of the other processes that work on it."""
        self._readmitted = f"{base}/read/"

    def item(self, run_id: str) -> str:
        return self.items + run_id

    def readmitted(self, run_id: str) -> str:
        """In which run an item was read again that an earlier one had left."""
        return self._readmitted + run_id


@lru_cache(maxsize=64)
def keys_of(queue_name: str) -> Keys:
    return Keys(queue_name)


def hash_of(payload: bytes) -> bytes:
    """A hash that equal inputs have in common."""
    return sha256(payload).digest()[:16]
