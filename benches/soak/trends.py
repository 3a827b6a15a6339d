"""Whether storage and memory are bounded, and latency flat: the last third against the first."""

from __future__ import annotations

import bisect
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benches.soak.history import Life
from benches.soak.plan import Plan

SHORTEST = 300.0
"""Seconds below which a soak says nothing about trends."""
WARM_UP = 60.0
SETTLED_AGE = 30.0
"""An owner's memory is looked at from that age on."""
AFTERMATH = 10.0
"""Calls this long after a trouble are not compared: what it held up is still being caught up."""
LOAD_LEVELS = 4

STORAGE_GROWTH = 1.5, 300, 20e6
"""Factor, and objects and bytes on top, by which the last third may exceed the first."""
MEMORY_GROWTH = 1.3, 30.0
LATENCY_GROWTH = 3.0, 0.03
"""Generous: machines are shared. A queue that gets slower with what it has seen does so without
a bound."""
LEAST_CALLS = 200
"""On either side: fewer were made within seconds, and say more about those than about the soak."""


@dataclass
class Trends:
    """What was measured.

    Attributes:
        violations: What grows.
        figures: First third, last third of each.
    """

    violations: list[str] = field(default_factory=list)
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)

    def compare(
        self,
        name: str,
        sides: tuple[Sequence[float], Sequence[float]],
        factor: float,
        slack: float,
        least: int = 5,
    ) -> None:
        """Compare medians; fewer than `least` values on either side say nothing."""
        early, late = sides
        if len(early) < least or len(late) < least:
            return
        first, last = statistics.median(early), statistics.median(late)
        self.figures[name] = first, last
        if last > factor * first + slack:
            self.violations.append(f"bounded: {name} went from {first:.4g} to {last:.4g}")


def judge_trends(lives: Iterable[Life], events: Iterable[dict[str, Any]], plan: Plan) -> Trends:
    """Compare the last third of a soak with the first."""
    trends = Trends()
    events = list(events)
    samples = [event for event in events if event["event"] == "sample"]
    if not samples or samples[-1]["t"] - plan.begin < SHORTEST:
        return trends
    begin, end = plan.begin + WARM_UP, samples[-1]["t"]
    third = (end - begin) / 3

    def thirds(values: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
        early: list[float] = []
        late: list[float] = []
        for moment, value in values:
            if begin <= moment < begin + third:
                early.append(value)
            elif end - third < moment <= end:
                late.append(value)
        return early, late

    factor, objects, size = STORAGE_GROWTH
    for name, slack in (("objects", objects), ("bytes", size)):
        found = thirds((sample["t"], sample[name]) for sample in samples)
        trends.compare(name, found, factor, slack)
    settled = [s for s in samples if s["rss_mb"] is not None and s["age"] > SETTLED_AGE]
    found = thirds((sample["t"], sample["rss_mb"]) for sample in settled)
    trends.compare("memory, MB", found, *MEMORY_GROWTH)

    troubles = _Troubles(events)
    took: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for life in lives:
        for call in life.calls:
            if call.name not in ("enqueue", "ack") or not call.ok or troubles.near(call.begin):
                continue
            assert call.end is not None
            level = int(plan.load_at(call.begin) * LOAD_LEVELS * 0.999)
            took[call.name, level].append((call.begin, call.end - call.begin))
    for (name, level), values in sorted(took.items()):
        title = f"{name}, s, at load {level + 1}/{LOAD_LEVELS}"
        trends.compare(title, thirds(values), *LATENCY_GROWTH, LEAST_CALLS)
    return trends


class _Troubles:
    """When there was trouble."""

    def __init__(self, events: Iterable[dict[str, Any]]) -> None:
        spans = sorted((e["begin"], e["t"]) for e in events if e["event"] == "trouble")
        self._begins: list[float] = []
        self._ends: list[float] = []
        for begin, end in spans:
            # Those that overlap become one.
            if self._ends and begin <= self._ends[-1] + AFTERMATH:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._begins.append(begin)
                self._ends.append(end)

    def near(self, moment: float) -> bool:
        place = bisect.bisect(self._begins, moment) - 1
        return place >= 0 and moment <= self._ends[place] + AFTERMATH
