"""The verdict on a soak of members, from their logs and from what is in the store in the end.

What is proved:

- *not lost*, *made once*, *atomic*: every job whose enqueue was acknowledged is in the store, once;
  and what was enqueued with it, too;
- *settled once*: every job ended, in one commit, by one run of it; the counters equal the rows;
- *started once*: a job is started a second time only if the process that ran it died, or did
  nothing for long, or said that it failed; the end of an owner is no reason (see `runs`);
- *no innocent pays*, *killers*: a job that ends its process is a dead letter after its attempts; no
  other job spends an attempt for it;
- *one way*, *in time*, *compare-and-set*: what is known of an answer holds in the owner and in the
  other processes (see `answers`);
- *one settlement*, *content*, *conduct*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benches.soak.checker import Verdict
from benches.soak.history import read_lines
from benches.soak.members.answers import check_answers, check_counter, check_enqueued
from benches.soak.members.logs import Log, read_logs
from benches.soak.members.plan import Plan
from benches.soak.members.runs import (
    Runs,
    check_attempts,
    check_late,
    check_runs,
    check_settlements,
)
from benches.soak.members.stored import Stored


def check(logs: Mapping[int, Log], stored: Stored, lease: float) -> Verdict:
    """Compare what members wrote down with what is in the store in the end."""
    runs = Runs(logs, lease)
    violations = [
        *check_enqueued(logs, stored),
        *check_settlements(runs, stored),
        *check_runs(runs),
        *check_attempts(runs, stored),
        *check_late(runs),
        *check_answers(logs),
        *check_counter(logs, stored),
    ]
    return Verdict(violations, _tally(runs, stored))


def check_folder(folder: Path) -> Verdict:
    """Check what a soak of members left in its folder."""
    events = list(read_lines(folder / "conductor.jsonl"))
    plan = Plan.load(next(event["plan"] for event in events if event["event"] == "plan"))
    stored = Stored.load((folder / "stored.json").read_text("utf-8"))
    verdict = check(read_logs(folder, events), stored, plan.lease)
    verdict.violations += (f"conduct: {e['what']}" for e in events if e["event"] == "problem")
    verdict.tally += _tally_events(events)
    return verdict


def _tally(runs: Runs, stored: Stored) -> Counter[str]:
    tally: Counter[str] = Counter()
    for job in stored.jobs:
        tally[f"jobs {job.status}"] += 1
        tally["jobs that end their process"] += job.kind == "die"
        for outcome, counted in job.history:
            if outcome != "completed":
                tally[f"attempts {outcome}, {'' if counted else 'not '}counted"] += 1
    for job_id, found in runs.of.items():
        tally["runs"] += len(found)
        tally["runs alone"] += sum(run.suspect for run in found)
        tally["runs in the owner"] += sum(
            runs.logs[run.member].was_owner(run.begin) for run in found
        )
        tally["jobs that ran more than once"] += len(found) > 1 and bool(job_id)
    for log in runs.logs.values():
        tally["processes that a job ended"] += log.by_job
        tally["pauses of members"] += len(log.pauses)
        tally["changes of the owner"] += sum(role == "owner" for _, role in log.roles)
        for call in log.calls:
            tally[f"calls in the {'owner' if call.role == 'owner' else 'other processes'}"] += 1
            tally["calls of unknown outcome"] += call.end is None or call.error == "StoreError"
    return tally


def _tally_events(events: Iterable[dict[str, Any]]) -> Counter[str]:
    return Counter(f"trouble: {event['what']}" for event in events if event["event"] == "trouble")
