"""Reads every row of a store in one snapshot and checks what must hold between them.

Shared by the tests that kill, fence, hang and cancel: each of them ends with "the store is whole,
and memory agrees with it".
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from taquba import JobStatus, Queue
from taquba._model import keys
from taquba._model.codec import decode_attempt, decode_counters, decode_location, decode_row
from taquba._model.records import Counters, Job, JobAttempt

SPACES = {
    keys.PENDING: JobStatus.PENDING,
    keys.SCHEDULED: JobStatus.SCHEDULED,
    keys.CLAIMED: JobStatus.CLAIMED,
    keys.DONE: JobStatus.DONE,
    keys.DEAD: JobStatus.DEAD,
}


@dataclass
class Dump:
    """Every row of a store at one moment."""

    rows: dict[bytes, bytes]
    jobs: dict[str, tuple[JobStatus, bytes, Job]] = field(default_factory=dict)
    counters: dict[str, Counters] = field(default_factory=dict)
    history: dict[str, list[JobAttempt]] = field(default_factory=dict)
    kv: dict[str, bytes] = field(default_factory=dict)

    def with_status(self, status: JobStatus) -> set[str]:
        return {job_id for job_id, (at, _, _) in self.jobs.items() if at is status}

    def entries(self, prefix: str) -> dict[str, bytes]:
        """Caller-owned entries below `prefix`, without it."""
        return {
            key.removeprefix(prefix): value
            for key, value in self.kv.items()
            if key.startswith(prefix)
        }


async def dump(queue: Queue) -> Dump:
    """Read the whole store and check that its rows agree with each other (I1, I2, I8)."""
    rows: dict[bytes, bytes] = {}
    async for found in queue._owner.engine.scan(b"", None):
        rows.update(found)
    state = Dump(rows)
    index: dict[str, tuple[JobStatus, bytes]] = {}
    dedup: dict[bytes, str] = {}
    sequences: dict[str, list[int]] = defaultdict(list)
    cursors: dict[str, bytes] = {}
    for key, value in rows.items():
        space = key[:2]
        if space in SPACES:
            job = decode_row(key, value)
            assert job.id not in state.jobs, f"{job.id} is in two places"
            state.jobs[job.id] = (SPACES[space], key, job)
        elif space == keys.INDEX:
            job_id = key[2:].decode()
            location = decode_location(job_id, value)
            index[job_id] = (location.status, location.key(job_id))
        elif space == keys.DEDUP:
            dedup[key] = value.decode()
        elif space == keys.HISTORY:
            job_id = key[3:-4].decode()
            sequences[job_id].append(int.from_bytes(key[-4:], "big"))
            state.history.setdefault(job_id, []).append(decode_attempt(value))
        elif space == keys.STATS:
            queue = keys.stats_queue(key)
            state.counters[queue] = decode_counters(queue, value)
        elif space == keys.USER:
            state.kv[key[2:].decode()] = value
        elif space == keys.CURSOR:
            cursors[keys.cursor_queue(key)] = value
        else:
            assert key in (keys.META, keys.OWNER) or space == keys.HEARTBEAT, f"a stray row {key!r}"

    assert index.keys() == state.jobs.keys(), "index and records differ"
    for job_id, (status, key, job) in state.jobs.items():
        indexed_status, indexed_key = index[job_id]
        if status is JobStatus.PENDING:
            # I6: the first scan of the next owner starts behind the cursor.
            assert key > cursors.get(job.queue, b""), f"{job_id} would not be found"
        if status is JobStatus.CLAIMED:
            assert indexed_status is JobStatus.PENDING
        else:
            assert (indexed_status, indexed_key) == (status, key)
        assert sequences[job_id] == list(range(job.history_length)), f"history of {job_id}"
    assert not sequences.keys() - state.jobs.keys(), "history of jobs that are gone"
    holders = {
        keys.dedup(job.queue, job.dedup_key): job_id
        for job_id, (status, _, job) in state.jobs.items()
        if job.holds_dedup_key and job.dedup_key is not None
        if status in (JobStatus.PENDING, JobStatus.SCHEDULED)
    }
    assert dedup == holders
    _check_counters(state)
    return state


def _check_counters(state: Dump) -> None:
    counted: Counter[tuple[str, JobStatus]] = Counter(
        (job.queue, status) for status, _, job in state.jobs.values()
    )
    queues = {job.queue for _, _, job in state.jobs.values()} | state.counters.keys()
    for queue in queues:
        counters = state.counters[queue]
        for status in (
            JobStatus.PENDING,
            JobStatus.SCHEDULED,
            JobStatus.CLAIMED,
            JobStatus.DEAD,
        ):
            assert getattr(counters, status.value) == counted[queue, status], (queue, status)


async def audit(queue: Queue, *, idle: bool = True) -> Dump:
    """`dump`, once nothing is in flight any more, and check that memory says the same."""
    owner = queue._owner
    await asyncio.wait_for(owner.committer._idle.wait(), 10)
    state = await dump(queue)
    assert {name: c for name, c in owner.counters.items() if any(c)} == {
        name: c for name, c in state.counters.items() if any(c)
    }
    assert {lease.job.id for lease in owner.leases} == state.with_status(JobStatus.CLAIMED)
    for lease in owner.leases:
        assert lease.state == "held"
        assert lease.job == state.jobs[lease.job.id][2]
    waiting: dict[str | None, dict[bytes, Job]] = defaultdict(dict)
    for status, key, job in state.jobs.values():
        if status is JobStatus.PENDING:
            waiting[job.queue][key] = job
        elif status is JobStatus.SCHEDULED:
            waiting[None][key] = job
    windows = {name: of_queue.window for name, of_queue in owner.queues.items()}
    for name, window in {**windows, None: owner.scheduled}.items():
        horizon = window.horizon
        # Suspects that the owner knows wait beside the window, wherever its horizon is.
        aside = {} if name is None else owner.queues[name].suspects
        seen = {key: job for key, job in waiting[name].items() if horizon is None or key <= horizon}
        assert aside.items() <= waiting[name].items(), f"the suspects of {name}"
        assert window._jobs.keys().isdisjoint(aside)
        assert {**window._jobs, **aside} == {**seen, **aside}, f"the window of {name}"
        if idle:
            assert window._leaving == set(aside)
    if idle:
        assert not owner.locks._waiting, "a lock was left behind"
        assert not owner.moves._moving
        assert not owner.moves._watches
        assert not owner.completions
    return state
