"""Histories: what a process was about to do, and what came of it, one JSON object per line.

A call is two lines: what is asked, written before the call is made, and what came back. So a
process may be killed at any time: a call without its second line may have had its effect or not.
Times are seconds of the machine's monotonic clock, the same in every process.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNKNOWN = frozenset({"StoreError", "StoreFenced", "QueueClosed", "CancelledError"})
"""Errors after which a call may have had its effect. After any other it had none."""


class HistoryWriter:
    """Appends to the history of one process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, **line: Any) -> None:
        line["t"] = round(time.monotonic(), 6)
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


@dataclass(slots=True)
class Call:
    """One call of an actor.

    Attributes:
        id: ``life.actor.number``; unique.
        life: Number of the owner; owners are numbered in the order in which they were started.
        actor: Who made it. An actor makes one call at a time, also over several lives.
        name: What was called.
        asked: What with.
        begin: When it was made.
        end: When it returned; None if its process ended before.
        result: What it returned.
        error: Name of the error it raised.
    """

    id: str
    life: int
    actor: str
    name: str
    asked: dict[str, Any]
    begin: float
    end: float | None = None
    result: Any = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.end is not None and self.error is None

    @property
    def acknowledged(self) -> float:
        """When its caller was told that it had its effect; infinity if never."""
        return self.end if self.end is not None and self.error is None else math.inf

    @property
    def unknown(self) -> bool:
        return self.end is None or self.error in UNKNOWN


@dataclass
class Life:
    """What one owner did, from its start to its end.

    Attributes:
        number: Its number.
        calls: In the order in which they were made.
        opened: When it had the store open; None if it never had.
        events: Everything else that it wrote down.
    """

    number: int
    calls: list[Call] = field(default_factory=list)
    opened: float | None = None
    events: list[dict[str, Any]] = field(default_factory=list)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a history; a process that was killed may have left half of one."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def read_life(path: Path, number: int) -> Life:
    life = Life(number)
    open_calls: dict[str, Call] = {}
    for line in read_lines(path):
        if "event" in line:
            life.events.append(line)
            if line["event"] == "opened":
                life.opened = line["t"]
        elif "call" in line:
            call_id = line["id"]
            actor = call_id.split(".")[1]
            call = Call(call_id, number, actor, line["call"], line.get("asked") or {}, line["t"])
            open_calls[call_id] = call
            life.calls.append(call)
        else:
            call = open_calls.pop(line["id"])
            call.end, call.result, call.error = line["t"], line.get("result"), line.get("error")
    return life


class Histories:
    """The histories of the owners in a folder, read one after the other each time.

    Args:
        folder: Where they are.
        before: Number of the first owner that is left out.
    """

    def __init__(self, folder: Path, before: float = math.inf) -> None:
        self._folder = folder
        self._before = before

    @staticmethod
    def path(folder: Path, number: int) -> Path:
        return folder / f"life-{number:05}.jsonl"

    def __iter__(self) -> Iterator[Life]:
        for path in sorted(self._folder.glob("life-*.jsonl")):
            number = int(path.stem.removeprefix("life-"))
            if number < self._before:
                yield read_life(path, number)
