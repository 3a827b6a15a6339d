"""Keys, values, ids, durations and moments: what is written reads back, and sorts as meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taquba import AttemptOutcome, Clock, InvalidArgument, InvalidArgumentType, JobStatus
from taquba._model import keys, validate
from taquba._model.clock import Timer, from_ms, to_ms
from taquba._model.codec import (
    decode_attempt,
    decode_counters,
    decode_format_version,
    decode_job,
    decode_location,
    decode_row,
    decode_store_id,
    encode_attempt,
    encode_counters,
    encode_job,
    encode_location,
    encode_meta,
)
from taquba._model.ids import IdGenerator
from taquba._model.records import Counters, Job, Suspicion

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60
)  # at most four bytes each, so 240 of 255
job_ids = st.text("0123456789ABCZaz_-", min_size=1, max_size=128)
times = st.integers(0, 4_102_444_800_000)


# -- keys ---------------------------------------------------------------------------------------


@given(queue=names, a=st.tuples(u32, job_ids), b=st.tuples(u32, job_ids))
def test_pending_keys_sort_by_priority_then_id(
    queue: str, a: tuple[int, str], b: tuple[int, str]
) -> None:
    assert (keys.pending(queue, *a) < keys.pending(queue, *b)) == (a < b)


@given(a=st.tuples(u64, names, job_ids), b=st.tuples(u64, names, job_ids))
def test_scheduled_keys_sort_by_time(a: tuple[int, str, str], b: tuple[int, str, str]) -> None:
    if a[0] != b[0]:
        assert (keys.scheduled(*a) < keys.scheduled(*b)) == (a[0] < b[0])
    assert keys.scheduled_run_at(keys.scheduled(*a)) == a[0]
    assert (keys.scheduled(*a) == keys.scheduled(*b)) == (a == b)


@given(queue=names, a=st.tuples(u64, job_ids), b=st.tuples(u64, job_ids))
def test_finished_keys_of_a_queue_sort_by_time_then_id(
    queue: str, a: tuple[int, str], b: tuple[int, str]
) -> None:
    for space in (keys.DONE, keys.DEAD):
        assert (keys.finished(space, queue, *a) < keys.finished(space, queue, *b)) == (a < b)


@given(job_id=job_ids, a=u32, b=u32)
def test_history_keys_of_a_job_sort_by_sequence(job_id: str, a: int, b: int) -> None:
    assert (keys.history(job_id, a) < keys.history(job_id, b)) == (a < b)
    assert keys.history(job_id, a).startswith(keys.history_prefix(job_id))


@given(a=names, b=names, job_id=job_ids, number=u32)
def test_no_key_of_a_queue_lies_in_the_range_of_another(
    a: str, b: str, job_id: str, number: int
) -> None:
    if a == b:
        return
    for space, key in (
        (keys.PENDING, keys.pending(a, number, job_id)),
        (keys.CLAIMED, keys.claimed(a, job_id)),
        (keys.DONE, keys.finished(keys.DONE, a, number, job_id)),
        (keys.DEAD, keys.finished(keys.DEAD, a, number, job_id)),
        (keys.DEDUP, keys.dedup(a, job_id)),
    ):
        prefix = keys.queue_prefix(space, b)
        end = keys.prefix_end(prefix)
        assert not key.startswith(prefix)
        assert end is not None
        assert not prefix <= key < end


@given(a=job_ids, b=job_ids, number=u32)
def test_no_history_of_a_job_lies_in_the_range_of_another(a: str, b: str, number: int) -> None:
    assert keys.history(a, number).startswith(keys.history_prefix(b)) == (a == b)


@given(prefix=st.binary(max_size=4), key=st.binary(max_size=6))
def test_prefix_end_bounds_exactly_the_keys_with_that_prefix(prefix: bytes, key: bytes) -> None:
    end = keys.prefix_end(prefix)
    assert (prefix <= key and (end is None or key < end)) == key.startswith(prefix)


@given(queue=names, job_id=job_ids, priority=u32, at=u64)
def test_owner_of_reads_the_queue_and_the_id_back(
    queue: str, job_id: str, priority: int, at: int
) -> None:
    for key in (
        keys.pending(queue, priority, job_id),
        keys.scheduled(at, queue, job_id),
        keys.claimed(queue, job_id),
        keys.finished(keys.DONE, queue, at, job_id),
        keys.finished(keys.DEAD, queue, at, job_id),
    ):
        assert keys.owner_of(key) == (queue, job_id)


@given(queue=names)
def test_the_queue_of_a_counter_or_cursor_key_reads_back(queue: str) -> None:
    assert keys.stats_queue(keys.stats(queue)) == queue
    assert keys.cursor_queue(keys.cursor(queue)) == queue


def test_a_name_of_255_bytes_fits() -> None:
    assert keys.owner_of(keys.claimed("q" * 255, "id")) == ("q" * 255, "id")


# -- values -------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
jobs = st.builds(
    Job,
    id=job_ids,
    queue=names,
    payload=st.binary(max_size=50),
    headers=st.none() | st.dictionaries(texts, texts, min_size=1, max_size=3),
    priority=u32,
    enqueued_at=times,
    max_attempts=st.integers(1, 2**31 - 1),
    attempts=st.integers(0, 2**31 - 1),
    run_at=st.none() | times,
    dedup_key=st.none() | texts,
    holds_dedup_key=st.booleans(),
    claimed_at=st.none() | times,
    finished_at=st.none() | times,
    last_error=st.none() | texts,
    cancel_requested=st.booleans(),
    woken_at=st.none() | times,
    wake_payload=st.none() | st.binary(max_size=20),
    history_length=u32,
    payload_ref=st.none() | texts,
    suspicion=st.none() | st.builds(Suspicion, u32, u32, st.booleans()),
    worker=st.none() | texts,
)


@given(job=jobs)
def test_a_job_reads_back_as_it_was_written(job: Job) -> None:
    value = encode_job(job)
    assert decode_job(job.queue, job.id, value) == job
    assert decode_row(keys.claimed(job.queue, job.id), value) == job


@given(job=jobs, known=st.integers(5, len(Job._fields) - 3))
def test_a_record_written_before_a_field_existed_reads_with_its_default(
    job: Job, known: int
) -> None:
    fields = list(job[2 : 2 + known])
    expected = Job(job.id, job.queue, *fields)  # type: ignore[arg-type]
    assert decode_job(job.queue, job.id, msgpack.packb(fields)) == expected


@given(
    status=st.sampled_from(
        [JobStatus.PENDING, JobStatus.SCHEDULED, JobStatus.DONE, JobStatus.DEAD]
    ),
    queue=names,
    position=u32,
    job_id=job_ids,
)
def test_a_location_reads_back_and_names_the_row(
    status: JobStatus, queue: str, position: int, job_id: str
) -> None:
    location = decode_location(job_id, encode_location(status, queue, position))
    assert location == (status, queue, position)
    row_key: dict[JobStatus, Callable[[], bytes]] = {
        JobStatus.PENDING: lambda: keys.pending(queue, position, job_id),
        JobStatus.SCHEDULED: lambda: keys.scheduled(position, queue, job_id),
        JobStatus.DONE: lambda: keys.finished(keys.DONE, queue, position, job_id),
        JobStatus.DEAD: lambda: keys.finished(keys.DEAD, queue, position, job_id),
    }
    assert location.key(job_id) == row_key[status]()


@given(counters=st.builds(Counters, *[u64] * 5))
def test_counters_read_back(counters: Counters) -> None:
    assert decode_counters("q", encode_counters(counters)) == counters


@given(
    attempt=u32,
    claimed_at=st.none() | times,
    recorded_at=times,
    outcome=st.sampled_from(AttemptOutcome),
    error=st.none() | texts,
    counted=st.booleans(),
    worker=st.none() | texts,
)
def test_an_attempt_reads_back(
    attempt: int,
    claimed_at: int | None,
    recorded_at: int,
    outcome: AttemptOutcome,
    error: str | None,
    counted: bool,
    worker: str | None,
) -> None:
    value = encode_attempt(
        attempt, claimed_at, recorded_at, outcome, error, counted=counted, worker=worker
    )
    read = decode_attempt(value)
    assert (read.attempt, read.outcome, read.error) == (attempt, outcome, error)
    assert read.counted is counted
    assert to_ms(read.recorded_at) == recorded_at
    assert (None if read.claimed_at is None else to_ms(read.claimed_at)) == claimed_at
    assert read.worker == worker
    older = msgpack.packb(msgpack.unpackb(value)[:-1])
    assert decode_attempt(older) == replace(read, worker=None)


@given(stamp=st.binary(max_size=20))
def test_a_stamp_that_cannot_be_read_is_another_layout(stamp: bytes) -> None:
    assert isinstance(decode_format_version(stamp), int)


def test_our_own_stamp_is_ours() -> None:
    stamp = encode_meta(1, "store-1")
    assert decode_format_version(stamp) == keys.FORMAT_VERSION
    assert decode_store_id(stamp) == "store-1"


# -- ids ----------------------------------------------------------------------------------------


class JumpyClock(Clock):
    """A wall clock that is set by hand, also backwards."""

    def __init__(self) -> None:
        self.ms = 1_900_000_000_000

    def time_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Timer:
        raise NotImplementedError

    def call_at(self, time_ms: int, recheck_ms: int, callback: Callable[[], None]) -> Timer:
        raise NotImplementedError


@given(steps=st.lists(st.sampled_from([0, 0, 0, 1, 5000, -1, -100_000]), max_size=60))
def test_ids_ascend_whatever_the_clock_does(steps: list[int]) -> None:
    clock = JumpyClock()
    ids = IdGenerator(clock)
    drawn = [ids.next()]
    for step in steps:
        clock.ms += step
        drawn.append(ids.next())
    assert all(earlier < later for earlier, later in pairwise(drawn))
    assert all(len(job_id) == 26 and validate.job_id(job_id) for job_id in drawn)


def test_ids_ascend_past_what_fits_into_one_millisecond() -> None:
    ids = IdGenerator(JumpyClock())
    drawn = [ids.next() for _ in range(1_100_000)]
    assert all(earlier < later for earlier, later in pairwise(drawn))


def test_ids_of_a_later_millisecond_are_above_those_of_an_earlier_owner() -> None:
    clock = JumpyClock()
    first = IdGenerator(clock).next()
    clock.ms += 1
    assert IdGenerator(clock).next() > first


# -- durations and moments ----------------------------------------------------------------------


@given(ms=st.integers(0, validate.MAX_DURATION_MS))
def test_durations_of_whole_milliseconds_are_exact(ms: int) -> None:
    assert validate.duration_ms(timedelta(milliseconds=ms), "d") == ms
    assert validate.duration_ms(ms / 1000, "d") == ms
    if ms % 1000 == 0:
        assert validate.duration_ms(ms // 1000, "d") == ms


@given(seconds=st.floats(0, 10**6))
def test_durations_are_rounded_up(seconds: float) -> None:
    ms = validate.duration_ms(seconds, "d")
    assert seconds * 1000 - 1e-6 <= ms <= seconds * 1000 + 1
    assert (ms == 0) == (seconds == 0), "a positive duration never becomes zero"


@pytest.mark.parametrize("value", [-1, -0.001, float("inf"), float("nan"), 1e300, 10**400])
def test_absurd_durations_are_refused(value: float) -> None:
    with pytest.raises(InvalidArgument, match="the-name"):
        validate.duration_ms(value, "the-name")


@pytest.mark.parametrize("value", ["1", None, True, b"1", [1]])
def test_durations_of_another_type_are_refused(value: Any) -> None:
    with pytest.raises(InvalidArgumentType, match="the-name"):
        validate.duration_ms(value, "the-name")


@given(ms=times, hours=st.integers(-14, 14))
def test_moments_read_back_in_any_zone(ms: int, hours: int) -> None:
    moment = from_ms(ms)
    assert moment.tzinfo is UTC
    assert validate.moment_ms(moment, "m") == ms
    assert validate.moment_ms(moment.astimezone(timezone(timedelta(hours=hours))), "m") == ms


@given(us=st.integers(0, 4_102_444_800_000_000))
def test_moments_are_kept_to_the_millisecond(us: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    assert abs(from_ms(validate.moment_ms(moment, "m")) - moment) <= timedelta(microseconds=500)


def test_naive_moments_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="the-name"):
        validate.moment_ms(datetime(2030, 1, 1), "the-name")  # noqa: DTZ001 - that is the point
