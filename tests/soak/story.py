"""Histories made by hand, and the store that they would have left behind."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benches.soak.checker import Verdict, check
from benches.soak.final import Final
from benches.soak.history import Call, Life
from benches.soak.plan import COUNTER, LEDGER, ORDERS

SIZE = 64
STEP = 0.01


class Story:
    """What owners did, call by call, each after the one before. Tests then spoil it.

    Attributes:
        lives: The owners.
        places: Where each job is in the end.
        done: Jobs acknowledged, by queue.
        ledgers: The entry of each actor in the end.
        counters: The counters in the end.
        now: The time.
    """

    def __init__(self) -> None:
        self.lives: list[Life] = []
        self.places: dict[str, tuple[str, str]] = {}
        self.done: Counter[str] = Counter()
        self.ledgers: dict[str, str] = {}
        self.counters: dict[str, str] = {}
        self.now = 0.0
        self.begin_life()

    def tick(self) -> float:
        self.now += STEP
        return self.now

    def begin_life(self) -> Life:
        life = Life(len(self.lives) + 1, opened=self.tick())
        self.lives.append(life)
        return life

    def call(
        self,
        actor: str,
        name: str,
        result: Any = None,
        *,
        error: str | None = None,
        returns: bool = True,
        life: Life | None = None,
        **asked: Any,
    ) -> Call:
        life = life or self.lives[-1]
        number = len(life.calls) + 1
        call = Call(f"{life.number}.{actor}.{number}", life.number, actor, name, asked, self.tick())
        if returns:
            call.end, call.result, call.error = self.tick(), result, error
        life.calls.append(call)
        return call

    def enqueue(
        self,
        job_id: str,
        *,
        queue: str = ORDERS,
        priority: int = 1000,
        key: str | None = None,
        lands: bool = True,
        actor: str = "producer",
        **options: Any,
    ) -> Call:
        jobs = [[job_id, queue, priority, SIZE, False, key]]
        call = self.call(actor, "enqueue", [[job_id, True]], jobs=jobs, **options)
        if lands:
            self.places[job_id] = queue, "pending"
            self.ledgers[actor] = call.id
        return call

    def claim(self, *job_ids: str, actor: str = "worker", **options: Any) -> Call:
        asked = options.pop("queue", ORDERS)
        attempts, priority = options.pop("attempts", 1), options.pop("priority", 1000)
        suspect = options.pop("suspect", False)
        result = [[job_id, priority, attempts, SIZE, suspect] for job_id in job_ids]
        return self.call(actor, "claim", result, queue=asked, **options)

    def settle(
        self, name: str, claim: Call, job_id: str, result: Any = None, **options: Any
    ) -> Call:
        lands = options.pop("lands", True)
        call = self.call(claim.actor, name, result, job=job_id, claim=claim.id, **options)
        if lands:
            self.ledgers[claim.actor] = call.id
        return call

    def ack(self, claim: Call, job_id: str, **options: Any) -> Call:
        lands = options.get("lands", True)
        call = self.settle("ack", claim, job_id, **options)
        if lands and (place := self.places.pop(job_id, None)):
            self.done[place[0]] += 1
        return call

    def read(self, actor: str) -> Call:
        return self.call(actor, "read", self.ledgers.get(actor))

    def final(self) -> Final:
        stats: dict[str, dict[str, int]] = {}
        for queue, status in self.places.values():
            stats.setdefault(queue, Counter())[status] += 1
        for queue, count in self.done.items():
            stats.setdefault(queue, Counter())["done"] = count
        kv = {f"{LEDGER}{actor}": call_id for actor, call_id in self.ledgers.items()}
        kv |= {f"{COUNTER}{name}": value for name, value in self.counters.items()}
        return Final(dict(self.places), stats, kv)

    def verdict(self, final: Final | None = None) -> Verdict:
        return check(self.lives, final or self.final())

    def broken_rules(self, final: Final | None = None) -> set[str]:
        return {text.partition(":")[0] for text in self.verdict(final).violations}
