"""What was asked, and what came back: the same in every role, and nothing acknowledged is lost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from benches.soak.members.logs import Asked, Log
from benches.soak.members.plan import ALONG, COUNTER
from benches.soak.members.stored import Stored

CALL_SECONDS = 60.0
"""Within which every call must be answered."""

REFUSED = {
    "requeue_dead none": "JobNotFound",
    "invalid": "InvalidQueueName",
    "late": "ClaimLost",
}
"""Calls that must raise, and what."""

ANSWERED: dict[str, Any] = {
    "kv_put": None,
    "kv_compare_put wrong": False,
    "get_job none": None,
    "cancel none": "not_found",
}
"""Calls whose result is known."""

MAY_BE_UNKNOWN = frozenset(
    ("kv_compare_put wrong", "requeue_dead none", "cancel none", "ack", "late", "count")
)
"""Calls that are not repeated when their owner dies; `enqueue` with an id of its own is another."""


def check_answers(logs: Mapping[int, Log]) -> Iterator[str]:
    """One way: the same call has the same answer, whichever process owns the store."""
    for log in logs.values():
        own: set[str | None] = {None}
        for call in log.calls:
            if call.end is not None and call.end - call.begin > CALL_SECONDS:
                yield f"in time: {call.where} took {call.end - call.begin:.0f} s"
            if call.end is not None and not _expected(call):
                yield (
                    f"one way: {call.where} was answered with {call.error or call.result!r} "
                    f"{call.why}"
                )
            if call.name == "kv_put":
                own = {call.asked["value"]} | (set() if call.ok else own)
            elif call.name == "kv_get" and call.ok and call.result not in own:
                yield f"one way: {call.where} has read {call.result}, but {own} was written"


def _expected(call: Asked) -> bool:
    if call.error is not None:
        if call.error == REFUSED.get(call.name):
            return True
        if call.name == "ack" and call.error == "ClaimLost":
            # See `check_late`.
            return True
        way = call.asked.get("way")
        if call.name == "enqueue" and call.error == "InboxNotOpen":
            # Nobody has had the store open yet.
            return True
        if way == "owned" and call.error == "DuplicateJobId":
            # See `check_enqueued`.
            return True
        unknown = call.name in MAY_BE_UNKNOWN or (call.name == "enqueue" and way != "fresh")
        return unknown and call.error == "StoreError" and not call.permanent
    if call.name in REFUSED:
        return False
    return call.name not in ANSWERED or bool(call.result == ANSWERED[call.name])


def check_enqueued(logs: Mapping[int, Log], stored: Stored) -> Iterator[str]:
    """Not lost, made once, atomic."""
    at: dict[str, list[str]] = defaultdict(list)
    for job in stored.jobs:
        at[job.tag].append(job.id)
        if not job.whole:
            yield f"content: {job.id} is damaged in the store"
    asked: set[str] = set()
    for log in logs.values():
        named: dict[str, str] = {}
        for call in log.calls:
            if call.name != "enqueue":
                continue
            tags = call.asked["tags"]
            asked.update(tags)
            found = [at.get(tag, []) for tag in tags]
            if call.asked["way"] == "batch":
                yield from _check_batch(call, found, stored)
            if call.ok:
                yield from _check_acknowledged(call, found, named)
            elif call.error == "DuplicateJobId" and found != [[call.asked["name"]]]:
                yield f"not lost: {call.where} was told of a job, but the store has {found}"
    for tag, ids in at.items():
        if len(ids) > 1:
            yield f"made once: {tag} became {ids}"
        if tag not in asked:
            yield f"not lost: {tag} is in the store as {ids}, but nobody enqueued it"


def _check_acknowledged(
    call: Asked, found: list[list[str]], named: dict[str, str]
) -> Iterator[str]:
    ids = [job_id for job_id, _ in call.result]
    if found != [[job_id] for job_id in ids]:
        yield f"not lost: {call.where} was acknowledged as {ids}, but the store has {found}"
    if (name := call.asked.get("name")) is not None:
        # In the inbox every request counts as new.
        ((job_id, _),) = call.result
        if named.setdefault(name, job_id) != job_id or (
            call.asked["way"] == "owned" and job_id != name
        ):
            yield f"made once: {call.where} returned {job_id} for {name}, known as {named[name]}"


def _check_batch(call: Asked, found: list[list[str]], stored: Stored) -> Iterator[str]:
    along = f"{ALONG}{call.asked['tags'][0]}" in stored.kv
    if {bool(ids) for ids in found} != {along}:
        yield f"atomic: of {call.where} the store has {found}, and its entry: {along}"


def check_counter(logs: Mapping[int, Log], stored: Stored) -> Iterator[str]:
    """Compare-and-set: every step was made by one call, and none is missing."""
    made: Counter[int] = Counter()
    perhaps: set[int] = set()
    for log in logs.values():
        for call in log.calls:
            if call.name == "count":
                if call.ok and call.result:
                    made[call.asked["to"]] += 1
                elif not call.ok:
                    perhaps.add(call.asked["to"])
    value = int(stored.kv.get(COUNTER, "0"))
    for number, times in made.items():
        if times > 1 or number > value:
            yield f"compare-and-set: {times} calls took the counter to {number}; it is {value}"
    for number in range(1, value + 1):
        if number not in made and number not in perhaps:
            yield f"compare-and-set: nobody took the counter to {number}"
