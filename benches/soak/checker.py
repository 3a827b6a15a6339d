"""The verdict on a soak, from its histories and from what is in the store in the end.

Knows the public words of the library, and none of its code. What is proved:

- *not lost*: every job whose enqueue was acknowledged was acknowledged or cancelled, or is still
  in the store; and nothing is in the store that nobody enqueued;
- *settled once*: no job ends twice, none is handed out after its end, no claim settles a job that
  another claim has been given meanwhile;
- *one holder*: no job is handed to two claims within a lease;
- *atomic* and *effects*: what a call wrote along with its effect is there if and only if the
  effect is; so calls whose answer was lost are accounted for as exactly as the others;
- *order*, *nothing hidden*, *dedup*: as far as they can be seen from outside, see `order`;
- *no innocent pays*: the end of an owner costs no attempt of a job that did not run alone, see
  `innocents`;
- *fenced*: an owner commits nothing once another one has opened the store;
- *compare-and-set*, *content*: no step of a counter is lost or made twice, every payload is whole;
- *counters*: statistics equal the rows, and the jobs done equal the acknowledgements;
- *bounded*: storage, memory and latency, see `trends`;
- *no busy waiting*: nobody is woken again and again for nothing;
- *in time*, *errors*, *conduct*: no call hangs, none is answered with an error that it should not
  be, no owner crashes, hangs, or fails to notice that it was fenced.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benches.soak.commits import check_counts, check_fences
from benches.soak.final import Final
from benches.soak.history import Histories, Life, read_lines
from benches.soak.innocents import check_innocents
from benches.soak.jobs import JobBook
from benches.soak.ledgers import follow_ledgers
from benches.soak.order import check_dedup, check_order
from benches.soak.plan import LEDGER, Plan
from benches.soak.trends import Trends, judge_trends

EXAMINED = {"left.json": "after the trouble", "drained.json": "after all was worked off"}


@dataclass
class Verdict:
    """What a soak has shown.

    Attributes:
        violations: Every promise that was broken; each begins with the name of its rule.
        tally: How many of what there was.
        trends: First third against last third.
    """

    violations: list[str]
    tally: Counter[str]
    trends: Trends = field(default_factory=Trends)


def check(lives: Iterable[Life], final: Final) -> Verdict:
    """Compare histories with what is in the store in the end.

    Args:
        lives: All owners in the order in which they were started; iterated several times.
        final: The store.
    """
    outcomes = follow_ledgers(lives, final.entries(LEDGER))
    book = JobBook(outcomes)
    violations = [*final.violations, *outcomes.violations]
    for life in lives:
        book.follow(life)
        violations += check_order(life, book.jobs)
    book.close(final)
    violations += book.violations
    violations += check_dedup(book.jobs)
    violations += check_fences(lives)
    violations += check_counts(lives, final)
    violations += check_innocents(lives)
    tally = book.tally
    tally["jobs"] = sum(job.born for job in book.jobs.values())
    tally["landed unseen"] = sum(outcomes.landed.values())
    return Verdict(violations, tally)


def check_folder(folder: Path, file: str) -> Verdict:
    """Check what a soak left in its folder, against the store as it was when `file` was written."""
    events = list(read_lines(folder / "conductor.jsonl"))
    before = float("inf")
    if file == "left.json":
        before = min((e["life"] for e in events if e["event"] == "drain"), default=before)
    lives = Histories(folder, before)
    final = Final.of(json.loads((folder / file).read_text("utf-8")))
    verdict = check(lives, final)
    verdict.violations += (f"conduct: {e['what']}" for e in events if e["event"] == "problem")
    verdict.violations += check_all_done(final) if file == "drained.json" else ()
    plan = Plan.load(next(event["plan"] for event in events if event["event"] == "plan"))
    verdict.trends = judge_trends(lives, events, plan)
    verdict.violations += verdict.trends.violations
    verdict.tally += tally_events(events)
    return verdict


def check_all_done(final: Final) -> Sequence[str]:
    """After everything was worked off, only done jobs that are kept may be there."""
    waiting = Counter(place for place in final.places.values() if place[1] != "done")
    return [
        f"nothing hidden: {count} {status} jobs of {queue} were never handed out"
        for (queue, status), count in waiting.items()
    ]


def tally_events(events: Iterable[dict[str, Any]]) -> Counter[str]:
    tally: Counter[str] = Counter()
    for event in events:
        if event["event"] == "trouble":
            tally[f"trouble: {event['what']}"] += 1
        elif event["event"] == "struck":
            tally["requests struck by faults"] += event["requests"]
        elif event["event"] == "end":
            tally[f"owners that ended with {event['code']}"] += 1
    return tally
