"""Commits of owners that were fenced, and the steps of counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from benches.soak.final import Final
from benches.soak.history import Call, Life
from benches.soak.plan import COUNTER


def commits(call: Call) -> bool:
    """Whether an acknowledged call changed the store."""
    if not call.ok:
        return False
    if call.name == "enqueue":
        return any(new for _, new in call.result)
    if call.name == "cancel":
        return bool(call.result != "not_found")
    if call.name == "count":
        return bool(call.result)
    return call.name in ("ack", "nack", "dead_letter", "requeue_dead", "barrier")


def check_fences(lives: Iterable[Life]) -> Iterator[str]:
    """Once an owner has the store open, no commit of an earlier one is acknowledged."""
    opened: dict[int, float] = {}
    newest: dict[int, Call] = {}
    for life in lives:
        if life.opened is not None:
            opened[life.number] = life.opened
        if made := [call for call in life.calls if commits(call)]:
            newest[life.number] = max(made, key=lambda call: call.begin)
    for number, call in newest.items():
        later = {owner: moment for owner, moment in opened.items() if owner > number}
        for owner, moment in later.items():
            if call.begin > moment:
                yield f"fenced: {call.id} was acknowledged after owner {owner} had opened"
                break


def check_counts(lives: Iterable[Life], final: Final) -> Iterator[str]:
    """Compare-and-set: every step of a counter was made by one call, and none is missing."""
    made: Counter[tuple[str, int]] = Counter()
    perhaps: set[tuple[str, int]] = set()
    for life in lives:
        for call in life.calls:
            if call.name == "count":
                step = call.asked["counter"], call.asked["to"]
                if call.unknown:
                    perhaps.add(step)
                elif call.result:
                    made[step] += 1
    for (counter, number), times in made.items():
        if times > 1:
            yield f"compare-and-set: {times} calls took {counter} to {number}"
    values = final.entries(COUNTER)
    for counter in {name for name, _ in made}:
        value = int(values.get(counter, "0"))
        highest = max(number for name, number in made if name == counter)
        if value < highest:
            yield f"compare-and-set: {counter} is {value}, but {highest} was acknowledged"
        for number in range(1, value + 1):
            if (counter, number) not in made and (counter, number) not in perhaps:
                yield f"compare-and-set: nobody took {counter} to {number}"
