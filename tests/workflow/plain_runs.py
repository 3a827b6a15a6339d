"""What runs do, without a store: a plain interpreter of the programs that the model test draws."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import NamedTuple


class Go(NamedTuple):
    """Go on at once, or after some seconds."""

    delay: int | None


class Wait(NamedTuple):
    """Go on with the run's signal of this name, or after some seconds without."""

    name: str
    timeout: int | None


class End(NamedTuple):
    """End as succeeded, failed, cancelled, or broken (a permanent error)."""

    how: str


class PlainStep(NamedTuple):
    does: Go | Wait | End
    failures: int
    """How many attempts fail before one does not."""


Program = tuple[PlainStep, ...]


@dataclass
class PlainRun:
    program: Program
    state: str = "new"
    step: int = 0
    due: int | None = None
    """Second at which its step begins by itself."""
    key: str | None = None
    seen: str = ""
    """Signals that its steps saw, `-` for a time-out."""
    asked_to_cancel: bool = False


@dataclass
class PlainRuns:
    now: int = 0
    runs: dict[str, PlainRun] = field(default_factory=dict)
    buffered: dict[str, str] = field(default_factory=dict)

    def copy(self) -> PlainRuns:
        return deepcopy(self)

    def submit(self, run_id: str, program: Program) -> None:
        if run_id not in self.runs:
            self.runs[run_id] = PlainRun(program)
            self._run(run_id)

    def signal(self, key: str, payload: str) -> None:
        for run_id, run in self.runs.items():
            if run.state == "waiting" and run.key == key:
                run.seen += payload
                self._run(run_id)
                return
        self.buffered[key] = payload

    def cancel(self, run_id: str) -> None:
        run = self.runs.get(run_id)
        if run is not None and run.state in ("sleeping", "waiting"):
            run.state, run.due, run.key = "cancelled", None, None
            run.asked_to_cancel = True

    def advance(self, seconds: int) -> None:
        end = self.now + seconds
        while True:
            due = [
                (run.due, run_id)
                for run_id, run in self.runs.items()
                if run.due is not None and run.due <= end
            ]
            if not due:
                break
            self.now, run_id = min(due)
            if self.runs[run_id].state == "waiting":
                self.runs[run_id].seen += "-"
            self._run(run_id)
        self.now = end

    def _run(self, run_id: str) -> None:
        """Run steps until the run sleeps, waits or has ended."""
        run = self.runs[run_id]
        while True:
            run.due = run.key = None
            does = run.program[run.step].does
            if isinstance(does, End):
                run.state = {"broken": "failed"}.get(does.how, does.how)
                return
            run.step += 1
            if isinstance(does, Go):
                if does.delay:
                    run.state, run.due = "sleeping", self.now + does.delay
                    return
            else:
                key = f"{run_id}/{does.name}"
                if key in self.buffered:
                    run.seen += self.buffered.pop(key)
                elif does.timeout == 0:
                    run.seen += "-"
                else:
                    run.state, run.key = "waiting", key
                    run.due = None if does.timeout is None else self.now + does.timeout
                    return
