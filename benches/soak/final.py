"""What is in the store in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Final:
    """Every job and entry, as the examiner wrote them down.

    Attributes:
        places: Queue and state of every job.
        stats: Counters by queue.
        kv: Entries.
        violations: Jobs in two places.
    """

    places: dict[str, tuple[str, str]] = field(default_factory=dict)
    stats: dict[str, dict[str, int]] = field(default_factory=dict)
    kv: dict[str, str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, examined: dict[str, Any]) -> Final:
        final = cls(kv=examined["kv"])
        for name, queue in examined["queues"].items():
            final.stats[name] = queue["stats"]
            for status, jobs in queue["jobs"].items():
                for job_id, *_ in jobs:
                    if job_id in final.places:
                        final.violations.append(f"one place: {job_id} is in two")
                    final.places[job_id] = (name, status)
        return final

    def entries(self, prefix: str) -> dict[str, str]:
        return {k.removeprefix(prefix): v for k, v in self.kv.items() if k.startswith(prefix)}
