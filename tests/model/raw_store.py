"""What a store holds, read from its raw rows without the package's own codec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgpack

from taquba._model import keys

Attempt = tuple[int, int | None, int, str, str | None, bool]
"""Number, claimed at, recorded at, outcome, error, whether it counts."""


class Record(NamedTuple):
    """A job, wherever it is."""

    id: str
    queue: str
    state: str
    payload: bytes
    headers: tuple[tuple[str, str], ...]
    priority: int
    enqueued_at: int
    max_attempts: int
    attempts: int = 0
    run_at: int | None = None
    dedup_key: str | None = None
    holds_dedup_key: bool = False
    claimed_at: int | None = None
    finished_at: int | None = None
    last_error: str | None = None
    cancel_requested: bool = False
    woken_at: int | None = None
    wake_payload: bytes | None = None
    suspicion: tuple[int, int, bool] | None = None
    """Uncounted ends of its process, counted ones, whether it runs alone."""
    history: tuple[Attempt, ...] = ()


class Counts(NamedTuple):
    pending: int = 0
    scheduled: int = 0
    claimed: int = 0
    done: int = 0
    dead: int = 0


class Contents(NamedTuple):
    jobs: dict[str, Record]
    dedup: dict[tuple[str, str], str]
    entries: dict[bytes, bytes]
    stats: dict[str, Counts]


_STATES = {
    keys.PENDING: "pending",
    keys.SCHEDULED: "scheduled",
    keys.CLAIMED: "claimed",
    keys.DONE: "done",
    keys.DEAD: "dead",
}
_FIELDS = Record._fields[3:-2]
_DEFAULTS = Record._field_defaults


def read(rows: Iterable[tuple[bytes, bytes]], objects: Mapping[str, bytes]) -> Contents:
    """Parse every row, and check what must hold of them among themselves (I1, I2, I8).

    `objects` are the payloads outside of the records, by their references.
    """
    jobs: dict[str, Record] = {}
    index: dict[str, tuple[Any, ...]] = {}
    located: dict[str, tuple[Any, ...]] = {}
    dedup: dict[tuple[str, str], str] = {}
    history: dict[str, dict[int, Attempt]] = {}
    lengths: dict[str, int] = {}
    stats: dict[str, Counts] = {}
    entries: dict[bytes, bytes] = {}
    cursors: dict[str, bytes] = {}
    pending: list[tuple[str, bytes]] = []
    for key, value in rows:
        space, rest = key[:2], key[2:]
        if space in _STATES:
            record, length, location = _record(
                _STATES[space], rest, msgpack.unpackb(value), objects
            )
            assert record.id not in jobs, f"{record.id} is in two places: {jobs[record.id]}"
            jobs[record.id] = record
            if record.state == "pending":
                pending.append((record.queue, key))
            lengths[record.id] = length
            located[record.id] = location
        elif space == keys.INDEX:
            index[rest.decode()] = tuple(msgpack.unpackb(value))
        elif space == keys.DEDUP:
            queue, name = _split_name(rest)
            dedup[queue, name.decode()] = value.decode()
        elif space == keys.HISTORY:
            job_id, sequence = _split_name(rest)
            *entry, worker = msgpack.unpackb(value)
            assert (worker is None) == (entry[1] is None), f"who ran an attempt of {job_id!r}"
            history.setdefault(job_id, {})[int.from_bytes(sequence)] = tuple(entry)
        elif space == keys.STATS:
            stats[rest.decode()] = Counts(*msgpack.unpackb(value))
        elif space == keys.USER:
            entries[rest] = value
        elif space == keys.CURSOR:
            cursors[rest.decode()] = value
        else:
            assert key in (keys.META, keys.OWNER), f"a row that should not be there: {key!r}"
    for queue, key in pending:
        # I6: the next owner's first scan starts behind the cursor.
        assert key > cursors.get(queue, b""), f"a pending job of {queue} that nobody would find"
    assert index == located, "the index does not say where the jobs are"
    assert {job_id: len(found) for job_id, found in history.items()} == {
        job_id: length for job_id, length in lengths.items() if length
    }, "history rows and records differ"
    for job_id, found in history.items():
        assert sorted(found) == list(range(len(found)))
        attempts = tuple(found[number] for number in range(len(found)))
        jobs[job_id] = jobs[job_id]._replace(history=attempts)
    for queue in {record.queue for record in jobs.values()} | set(stats):
        assert stats.get(queue, Counts()) == _count(jobs, queue)._replace(
            done=stats.get(queue, Counts()).done
        ), f"counters of {queue} are not the row counts"
    return Contents(jobs, dedup, entries, stats)


def _record(
    state: str, rest: bytes, fields: list[Any], objects: Mapping[str, bytes]
) -> tuple[Record, int, tuple[int, str, int]]:
    """The record of a row, its number of history entries, and what the index must say of it."""
    position = 0
    if state == "scheduled":
        position, rest = int.from_bytes(rest[:8]), rest[8:]
    queue, name = _split_name(rest)
    if state == "pending":
        position, name = int.from_bytes(name[:4]), name[4:]
    elif state in ("done", "dead"):
        position, name = int.from_bytes(name[:8]), name[8:]
    last = ("length", "reference", "suspicion", "worker")
    named = dict(zip((*_FIELDS, *last), fields, strict=False))
    worker = named.pop("worker", None)
    assert (worker is None) == (named.get("claimed_at") is None), f"who ran {rest!r}"
    length = named.pop("length", 0)
    reference = named.pop("reference", None)
    if reference is not None:
        assert named["payload"] == b""
        assert reference in objects, f"the payload object of {rest!r} is gone"
        named["payload"] = objects[reference]
    named["headers"] = tuple(sorted((named["headers"] or {}).items()))
    if named.get("suspicion") is not None:
        named["suspicion"] = tuple(named["suspicion"])
        assert state not in ("done", "dead"), f"{rest!r} has ended and is still a suspect"
        assert state == "claimed" or not named["suspicion"][2], f"{rest!r} waits, and runs alone"
    record = Record(name.decode(), queue, state, **named)
    if state == "pending":
        assert position == record.priority
    elif state == "claimed":
        position = record.priority
    elif state == "scheduled":
        assert position == record.run_at
    else:
        assert position == record.finished_at
    code = {"pending": 0, "claimed": 0, "scheduled": 1, "done": 2, "dead": 3}[state]
    return record, length, (code, queue, position)


def _split_name(rest: bytes) -> tuple[str, bytes]:
    """A length-prefixed name, and what follows it."""
    end = 1 + rest[0]
    return rest[1:end].decode(), rest[end:]


def _count(jobs: dict[str, Record], queue: str) -> Counts:
    states = [record.state for record in jobs.values() if record.queue == queue]
    return Counts(*(states.count(state) for state in Counts._fields))
