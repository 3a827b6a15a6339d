"""Starting, killing and believing the worker child; see `worker_child.py`."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from taquba import AttemptOutcome, JobStatus
from tests.crash.audit import Dump

SCRIPT = Path(__file__).with_name("worker_child.py")
START_SECONDS = 30


class ChildProcess:
    """One child. It is started ahead of time and works from `go` on."""

    def __init__(self, store: str | Path, log: Path, seed: int, *, fsync: bool) -> None:
        self.log = log
        log.touch()
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(store), str(log), str(seed), str(int(fsync))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def go(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    async def first_report(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.log.stat().st_size == 0:
            assert self.process.poll() is None, "the child ended by itself"
            assert time.monotonic() < deadline, "the child does not work"
            await asyncio.sleep(0.002)

    async def ended(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"the child still runs after {seconds} s"
            await asyncio.sleep(0.01)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def reports(self) -> list[list[str]]:
        return read_reports(self.log)

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_reports(log: Path) -> list[list[str]]:
    """The whole lines of a log."""
    whole, _, _ = log.read_text().rpartition("\n")
    return [line.split(" ") for line in whole.splitlines()]


@dataclass
class Ledger:
    """Everything that children acknowledged, and what it promises about the store."""

    enqueued: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    requeueing: set[str] = field(default_factory=set)
    settled: dict[str, set[tuple[str, int]]] = field(default_factory=lambda: defaultdict(set))
    counted: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def read(self, reports: list[list[str]]) -> None:
        for kind, *words in reports:
            if kind in ("acked", "dead", "retried"):
                self.settled[kind].add((words[0], int(words[1])))
            elif kind == "counted":
                self.counted[words[0]].append(int(words[1]))
            elif kind in ("enqueued", "cancelled", "requeueing"):
                getattr(self, kind).add(words[0])
            else:
                assert kind in ("woken", "requeued", "fenced"), kind

    def check(self, state: Dump) -> None:
        """Every promise that was made is kept, and nothing happened by halves."""
        born = state.entries("born/").keys()
        acked = _claims(state, "acked/")
        dead = _claims(state, "dead/")
        cancelled = state.entries("cancelled/").keys()
        acked_ids = {job_id for job_id, _ in acked}

        assert self.enqueued <= born
        assert self.settled["acked"] <= acked.keys()
        assert self.settled["dead"] <= dead.keys()
        assert self.cancelled <= cancelled

        # Each job is in one place or left in one way, once.
        assert len(acked_ids) == len(acked), "a job was acknowledged twice"
        ended = [*acked_ids, *cancelled, *state.jobs]
        assert len(ended) == len(set(ended)), "a job that ended is still there, or ended twice"
        assert set(ended) == born

        # Counters of completed jobs are as exact as those of the rows.
        done = Counter(value.decode() for value in acked.values())
        assert done == {name: c.done for name, c in state.counters.items() if c.done}

        # Effects landed with their settlement and not without.
        follow_ups = {job_id[2:] for job_id in born if job_id.startswith("f-")}
        assert follow_ups == {job_id for (job_id, _), queue in acked.items() if queue != b"follow"}
        for batch, ids in state.entries("batch/").items():
            assert {batch, *ids.decode().split()} <= born, "a batch landed by halves"

        self._check_histories(state, dead.keys())
        for name, values in self.counted.items():
            assert len(values) == len(set(values)), "two compare-puts won with one value"
            assert int(state.kv[f"counter/{name}"]) >= max(values)

    def _check_histories(self, state: Dump, dead: set[tuple[str, int]]) -> None:
        recorded = {
            (job_id, number)
            for job_id, attempts in state.history.items()
            for number, attempt in enumerate(attempts)
            if attempt.outcome is AttemptOutcome.DEAD_LETTERED
        }
        still_here = {claim for claim in dead if claim[0] in state.jobs}
        assert recorded == still_here, "effects of a dead letter differ from its history"
        for job_id, number in self.settled["retried"]:
            assert (job_id, number) not in dead, "a retried nack applied its effects"
            if job_id in state.jobs:
                assert state.history[job_id][number].outcome is AttemptOutcome.RETRIED
        times = Counter(job_id for job_id, _ in dead)
        for job_id, count in times.items():
            if job_id not in self.requeueing:
                assert count == 1, "a job was dead-lettered twice"
                assert state.jobs[job_id][0] is JobStatus.DEAD


def _claims(state: Dump, prefix: str) -> dict[tuple[str, int], bytes]:
    found: dict[tuple[str, int], bytes] = {}
    for name, value in state.entries(prefix).items():
        job_id, _, number = name.rpartition("/")
        found[job_id, int(number)] = value
    return found
