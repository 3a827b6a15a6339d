"""What the members wrote down, and what became of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benches.soak.history import read_lines


@dataclass(slots=True)
class Run:
    """One time that a job ran.

    Attributes:
        name: ``MEMBER.RUN``, as in the entry that it leaves behind.
        member: The number of the member.
        claimed: When it began to claim the job by hand.
        how: How it ended; None if it did not.
    """

    name: str
    member: int
    job: str
    tag: str
    kind: str
    queue: str
    whole: bool
    attempts: int
    suspect: bool
    begin: float
    claimed: float | None = None
    end: float = math.inf
    how: str | None = None


@dataclass(slots=True)
class Asked:
    """One call of a member; see `benches.soak.history.Call`."""

    member: int
    name: str
    role: str
    asked: dict[str, Any]
    begin: float
    end: float | None = None
    result: Any = None
    error: str | None = None
    permanent: bool = False
    why: str = ""

    @property
    def ok(self) -> bool:
        return self.end is not None and self.error is None

    @property
    def where(self) -> str:
        return f"{self.name} of member {self.member} ({self.role}) at {self.begin:.3f}"


@dataclass
class Log:
    """What one member did.

    Attributes:
        number: The member.
        runs: In the order in which they began.
        calls: The same.
        pauses: When it did nothing for long: (from, to).
        killed: When somebody was about to kill it: the conductor, or one of its jobs.
        by_job: Whether that was a job.
        left: Whether it stopped as it should.
    """

    number: int
    runs: list[Run] = field(default_factory=list)
    calls: list[Asked] = field(default_factory=list)
    pauses: list[tuple[float, float]] = field(default_factory=list)
    roles: list[tuple[float, str]] = field(default_factory=list)
    killed: float = math.inf
    by_job: bool = False
    left: bool = False
    last: float = 0.0
    """When it last wrote something down."""

    def pauses_between(self, begin: float, end: float) -> bool:
        """Whether it did nothing for long, so that it may have lost a job that it had then."""
        return any(since <= end and until >= begin for since, until in self.pauses)

    def was_owner(self, moment: float) -> bool:
        roles = [role for when, role in self.roles if when <= moment]
        return roles[-1:] == ["owner"]


def read_log(lines: Iterable[dict[str, Any]], number: int) -> Log:
    log = Log(number)
    runs: dict[int, Run] = {}
    calls: dict[int, Asked] = {}
    for line in lines:
        moment = log.last = line.pop("t")
        if "event" in line:
            _take_event(log, line, moment)
        elif "run" in line:
            name = line.pop("run")
            run = runs[name] = Run(name=f"{number}.{name}", member=number, begin=moment, **line)
            log.runs.append(run)
        elif "ended" in line:
            run = runs[line["ended"]]
            run.end, run.how = moment, line["how"]
        elif "call" in line:
            call = Asked(number, line["call"], line["role"], line["asked"], moment)
            calls[line["id"]] = call
            log.calls.append(call)
        else:
            call = calls[line.pop("id")]
            call.end = moment
            for name, value in line.items():
                setattr(call, name, value)
    return log


def _take_event(log: Log, line: dict[str, Any], moment: float) -> None:
    match line["event"]:
        case "late":
            log.pauses.append((line["since"], moment))
        case "blocks":
            # Should it be killed meanwhile, it does not say for how long.
            log.pauses.append((moment, moment + line["seconds"]))
        case "role":
            log.roles.append((moment, line["role"]))
        case "dies":
            log.killed, log.by_job = moment, True
        case "left":
            log.left = True


def read_logs(folder: Path, events: Iterable[dict[str, Any]]) -> dict[int, Log]:
    """The logs of all members, with what the conductor did to them."""
    paths = sorted(folder.glob("member-*.jsonl"))
    numbers = [int(path.stem.removeprefix("member-")) for path in paths]
    logs = {n: read_log(read_lines(p), n) for n, p in zip(numbers, paths, strict=True)}
    for number, begin, end in _suspensions(events):
        if (log := logs.get(number)) is not None:
            log.pauses.append((begin, end))
    for event in events:
        if event["event"] == "ended" and event["code"] < 0:
            log = logs.get(event["member"])
            if log is not None and log.killed == math.inf:
                # Neither by the conductor nor by a job.
                log.killed = log.last
    for event in events:
        log = logs.get(event["member"]) if event["event"] == "kills" else None
        # Without a log it was killed before it did anything.
        if log is not None and event["t"] < log.killed:
            log.killed, log.by_job = event["t"], False
    return logs


def _suspensions(events: Iterable[dict[str, Any]]) -> Iterator[tuple[int, float, float]]:
    since: dict[int, float] = {}
    for event in events:
        if event["event"] == "suspends":
            since[event["member"]] = event["t"]
        elif event["event"] == "resumes":
            yield event["member"], since.pop(event["member"]), event["t"]
    for number, begin in since.items():
        yield number, begin, math.inf
