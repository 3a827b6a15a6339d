"""Transitions: what a job becomes, and that rows, index, dedup key, history and counters agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taquba import JobStatus, QueueConfig
from taquba._model import keys
from taquba._model.codec import decode_attempt, encode_counters
from taquba._model.options import Policy
from taquba._model.records import Counters, Job, Suspicion
from taquba._rules import transitions
from taquba._rules.transitions import Change
from tests.model.raw_store import Contents, Counts, Record, read

NOW = 1_900_000_000_000
WORKER = "host:123:0a1b2c3d"
DROPS_DONE = QueueConfig(retry_backoff_base=0).policy()
KEEPS_DONE = QueueConfig(retry_backoff_base=2, keep_done_jobs=60, retry_jitter=0).policy()


def new_job(
    *, run_at: int | None = None, dedup_key: str | None = None, max_attempts: int = 3
) -> Job:
    return Job(
        "job",
        "q",
        b"payload",
        {"h": "v"},
        7,
        NOW,
        max_attempts,
        run_at=run_at,
        dedup_key=dedup_key,
        holds_dedup_key=dedup_key is not None,
    )


class Store:
    """One job's rows, as they are after each change."""

    def __init__(self, job: Job) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.totals = [0, 0, 0, 0, 0]
        self.job = job
        self.status: JobStatus | None = None
        self.follow(transitions.enqueue(job))

    def follow(self, change: Change) -> None:
        for key, value in change.ops:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        self.totals = [a + b for a, b in zip(self.totals, change.counts, strict=True)]
        self.job, self.status = change.job, change.status

    def contents(self) -> Contents:
        counters = {keys.stats("q"): encode_counters(Counters(*self.totals))}
        return read({**self.rows, **counters}.items(), objects={})

    def record(self) -> Record | None:
        return self.contents().jobs.get("job")

    def key(self) -> bytes:
        """Key of the row that holds the record."""
        return next(
            key for key in self.rows if key[:2] not in (keys.INDEX, keys.DEDUP, keys.HISTORY)
        )

    def claim(self, at: int = NOW) -> None:
        self.follow(transitions.claim(self.job, self.key(), at, WORKER))

    def claim_alone(self) -> None:
        self.follow(transitions.claim_alone(self.job, self.key(), NOW, WORKER))


def test_an_enqueued_job_is_pending_and_holds_its_dedup_key() -> None:
    store = Store(new_job(dedup_key="k"))
    assert store.record() == Record(
        "job", "q", "pending", b"payload", (("h", "v"),), 7, NOW, 3,
        dedup_key="k", holds_dedup_key=True,
    )  # fmt: skip
    assert store.contents().dedup == {("q", "k"): "job"}
    assert store.contents().stats["q"] == Counts(pending=1)


def test_an_enqueued_job_with_a_time_is_scheduled_and_is_promoted_with_its_dedup_key() -> None:
    store = Store(new_job(run_at=NOW + 5, dedup_key="k"))
    assert store.status is JobStatus.SCHEDULED
    assert store.contents().stats["q"] == Counts(scheduled=1)
    store.follow(transitions.promote(store.job, store.key()))
    record = store.record()
    assert record is not None
    assert (record.state, record.run_at) == ("pending", NOW + 5)
    assert store.contents().dedup == {("q", "k"): "job"}
    assert store.contents().stats["q"] == Counts(pending=1)


def test_a_woken_job_says_when_and_why() -> None:
    store = Store(new_job(run_at=NOW + 5000))
    store.follow(transitions.wake(store.job, store.key(), NOW + 1, b"why"))
    record = store.record()
    assert record is not None
    assert (record.state, record.woken_at, record.wake_payload) == ("pending", NOW + 1, b"why")


def test_a_claim_starts_an_attempt_and_frees_the_dedup_key() -> None:
    store = Store(new_job(dedup_key="k"))
    store.claim(NOW + 3)
    record = store.record()
    assert record is not None
    assert (record.state, record.attempts, record.claimed_at) == ("claimed", 1, NOW + 3)
    assert store.contents().dedup == {}
    assert store.contents().stats["q"] == Counts(claimed=1)


def test_a_claim_changes_nothing_else_of_the_record() -> None:
    job = new_job()._replace(
        attempts=1, run_at=NOW, dedup_key="k", last_error="e", cancel_requested=True, woken_at=NOW,
        wake_payload=b"w", history_length=2, payload_ref="r", suspicion=Suspicion(1), worker="w",
    )  # fmt: skip
    change = transitions.claim(job, b"key", NOW + 3, WORKER)
    assert change.job == job._replace(
        attempts=2, holds_dedup_key=False, claimed_at=NOW + 3, worker=WORKER
    )


def test_who_ran_a_job_stays_in_its_record_and_in_its_history() -> None:
    store = Store(new_job())
    assert store.job.worker is None
    workers = ["host:1:0a", "host:2:0b", "other:1:0c"]
    for worker in workers:
        store.follow(transitions.claim(store.job, store.key(), NOW, worker))
        store.follow(transitions.nack(store.job, NOW, "e", DROPS_DONE, 0))
        assert store.job.worker == worker
    assert store.status is JobStatus.DEAD
    entries = [value for key, value in sorted(store.rows.items()) if key[:2] == keys.HISTORY]
    assert [decode_attempt(entry).worker for entry in entries] == workers
    store.follow(transitions.requeue_dead(store.job, store.key(), NOW))
    assert store.job.worker == workers[-1]


def test_an_acknowledged_job_leaves_nothing_but_the_count() -> None:
    store = Store(new_job())
    store.claim()
    store.follow(transitions.retry(store.job, NOW, "again", 0))
    store.claim()
    store.follow(transitions.ack(store.job, NOW, DROPS_DONE))
    assert store.rows == {}
    assert store.status is None
    assert store.contents().stats["q"] == Counts(done=1)


def test_an_acknowledged_job_is_kept_where_the_queue_keeps_them() -> None:
    store = Store(new_job())
    store.claim(NOW + 1)
    store.follow(transitions.ack(store.job, NOW + 2, KEEPS_DONE))
    record = store.record()
    assert record is not None
    assert (record.state, record.finished_at) == ("done", NOW + 2)
    assert record.history == ((1, NOW + 1, NOW + 2, "completed", None, True),)
    store.follow(transitions.expire(store.job, JobStatus.DONE, store.key()))
    assert store.rows == {}
    assert store.contents().stats["q"] == Counts(done=1), "done counts all that ever completed"


@pytest.mark.parametrize(
    ("policy", "state", "run_at"),
    [(DROPS_DONE, "pending", None), (KEEPS_DONE, "scheduled", NOW + 9 + 2000)],
)
def test_a_failed_attempt_is_retried_after_its_backoff(
    policy: Policy, state: str, run_at: int | None
) -> None:
    store = Store(new_job())
    store.claim()
    store.follow(transitions.nack(store.job, NOW + 9, "oops", policy, 1.0))
    record = store.record()
    assert record is not None
    assert (record.state, record.run_at, record.last_error) == (state, run_at, "oops")
    assert record.history == ((1, NOW, NOW + 9, "retried", "oops", True),)


def test_the_last_failed_attempt_is_a_dead_letter() -> None:
    store = Store(new_job(max_attempts=1))
    store.claim()
    store.follow(transitions.nack(store.job, NOW + 9, "oops", DROPS_DONE, 0))
    record = store.record()
    assert record is not None
    assert (record.state, record.finished_at, record.last_error) == ("dead", NOW + 9, "oops")
    assert record.history == ((1, NOW, NOW + 9, "dead_lettered", "oops", True),)
    assert store.contents().stats["q"] == Counts(dead=1)


@pytest.mark.parametrize(("max_attempts", "state"), [(1, "dead"), (2, "pending")])
def test_a_job_whose_lease_expired_has_spent_its_attempt(max_attempts: int, state: str) -> None:
    store = Store(new_job(max_attempts=max_attempts))
    store.claim()
    store.follow(transitions.take_back(store.job, NOW + 9))
    record = store.record()
    assert record is not None
    assert (record.state, record.attempts) == (state, 1)
    assert record.last_error == "the lease expired"
    assert record.history == ((1, NOW, NOW + 9, "lease_expired", "the lease expired", True),)


def lose(store: Store, policy: Policy = DROPS_DONE) -> Record:
    store.follow(transitions.lose_process(store.job, NOW + 9, "gone", policy, 0))
    record = store.record()
    assert record is not None
    return record


def test_a_job_whose_process_ended_beside_others_is_a_suspect_and_has_spent_nothing() -> None:
    store = Store(new_job(max_attempts=1))
    for interruptions in (1, 2):
        store.claim()
        record = lose(store)
        assert (record.state, record.attempts, record.last_error) == ("pending", 0, "gone")
        assert record.suspicion == (interruptions, 0, False)
        assert record.history[-1] == (1, NOW, NOW + 9, "interrupted", "gone", False)


def test_a_job_whose_process_ends_while_it_runs_alone_is_given_up_after_its_attempts() -> None:
    store = Store(new_job(max_attempts=3))
    store.claim()
    lose(store)
    for deaths, wait in ((1, 2000), (2, 4000)):
        store.claim_alone()
        assert (record := store.record()) is not None
        assert record.suspicion == (1, deaths - 1, True)
        record = lose(store, KEEPS_DONE)
        assert (record.state, record.run_at) == ("scheduled", NOW + 9 + wait)
        assert (record.attempts, record.suspicion) == (deaths, (1, deaths, False))
        store.follow(transitions.promote(store.job, store.key()))
    store.claim_alone()
    record = lose(store)
    assert (record.state, record.attempts, record.suspicion) == ("dead", 3, None)
    assert record.last_error is not None
    assert "ended 3 times while it ran alone" in record.last_error
    assert [entry[-1] for entry in record.history] == [False, True, True, True]


def test_a_suspect_that_others_have_joined_is_one_of_several_again() -> None:
    store = Store(new_job(max_attempts=1))
    store.claim()
    lose(store)
    store.claim_alone()
    store.follow(transitions.join(store.job))
    record = lose(store)
    assert (record.state, record.attempts, record.suspicion) == ("pending", 0, (2, 0, False))


@pytest.mark.parametrize(
    "end",
    [
        lambda job: transitions.ack(job, NOW, KEEPS_DONE),
        lambda job: transitions.nack(job, NOW, "e", DROPS_DONE, 0),
        lambda job: transitions.snooze(job, NOW, "e", 50),
        lambda job: transitions.dead_letter(job, NOW, "e"),
        lambda job: transitions.take_back(job, NOW),
    ],
    ids=["ack", "nack", "snooze", "dead letter", "lease expired"],
)
def test_a_suspect_that_comes_to_another_end_is_a_suspect_no_longer(
    end: Callable[[Job], Change],
) -> None:
    store = Store(new_job())
    store.claim()
    lose(store)
    store.claim_alone()
    store.follow(end(store.job))
    assert (record := store.record()) is not None
    assert record.suspicion is None


def test_a_suspect_whose_worker_stops_is_still_a_suspect() -> None:
    store = Store(new_job())
    store.claim()
    lose(store)
    store.claim_alone()
    store.follow(transitions.interrupt(store.job, NOW, "stopping"))
    assert (record := store.record()) is not None
    assert record.suspicion == (1, 0, False)


def test_an_interrupted_job_has_not_spent_its_attempt() -> None:
    store = Store(new_job(max_attempts=1))
    store.claim()
    store.follow(transitions.interrupt(store.job, NOW + 9, "stopping"))
    record = store.record()
    assert record is not None
    assert (record.state, record.attempts) == ("pending", 0)
    assert record.history == ((1, NOW, NOW + 9, "interrupted", "stopping", False),)


def test_a_snoozed_job_waits_with_its_reason_and_has_not_spent_its_attempt() -> None:
    store = Store(new_job(max_attempts=1, dedup_key="k"))
    for wait in (50, 70):
        store.claim()
        store.follow(transitions.snooze(store.job, NOW + 9, "busy", wait))
        record = store.record()
        assert record is not None
        assert (record.state, record.run_at) == ("scheduled", NOW + 9 + wait)
        assert (record.attempts, record.last_error) == (0, "busy")
        assert record.history == ()
        assert store.contents().dedup == {}
        assert store.contents().stats["q"] == Counts(scheduled=1)
        store.follow(transitions.promote(store.job, store.key()))


def test_a_request_to_cancel_survives_redelivery_but_not_requeueing() -> None:
    store = Store(new_job(max_attempts=2))
    store.claim()
    store.follow(transitions.request_cancel(store.job))
    store.follow(transitions.retry(store.job, NOW, "again", 0))
    assert store.job.cancel_requested
    store.claim()
    store.follow(transitions.dead_letter(store.job, NOW, "no"))
    assert store.job.cancel_requested
    store.follow(transitions.requeue_dead(store.job, store.key(), NOW))
    assert not store.job.cancel_requested


@pytest.mark.parametrize("run_at", [None, NOW + 5])
def test_a_cancelled_job_leaves_nothing(run_at: int | None) -> None:
    store = Store(new_job(run_at=run_at, dedup_key="k"))
    assert store.status is not None
    store.follow(transitions.cancel(store.job, store.status, store.key()))
    assert store.rows == {}
    assert store.contents().stats["q"] == Counts()


def test_a_requeued_job_has_fresh_attempts_and_its_old_place() -> None:
    store = Store(new_job(max_attempts=1))
    place = store.key()
    store.claim()
    store.follow(transitions.dead_letter(store.job, NOW + 1, "no"))
    store.follow(transitions.requeue_dead(store.job, store.key(), NOW + 2))
    record = store.record()
    assert record is not None
    assert (record.attempts, record.enqueued_at, record.finished_at) == (0, NOW, None)
    assert [entry[3] for entry in record.history] == ["dead_lettered", "requeued"]
    assert store.key() == place
    assert store.contents().stats["q"] == Counts(pending=1)


def retry_or_bury(job: Job, now: int) -> Change:
    """A delayed retry is decided on only while attempts are left."""
    if transitions.is_last_attempt(job):
        return transitions.dead_letter(job, now, "e")
    return transitions.retry(job, now, "e", 50)


# What may happen to a job in each state. The second half of a pair says whether to keep done jobs.
Event = Callable[[Store, int], Change]
EVENTS: dict[JobStatus, list[Event]] = {
    JobStatus.PENDING: [
        lambda store, now: transitions.claim(store.job, store.key(), now, WORKER),
        lambda store, now: transitions.claim_alone(store.job, store.key(), now, WORKER),
        lambda store, now: transitions.cancel(store.job, JobStatus.PENDING, store.key()),
    ],
    JobStatus.SCHEDULED: [
        lambda store, now: transitions.promote(store.job, store.key()),
        lambda store, now: transitions.wake(store.job, store.key(), now, b"w"),
        lambda store, now: transitions.cancel(store.job, JobStatus.SCHEDULED, store.key()),
    ],
    JobStatus.CLAIMED: [
        lambda store, now: transitions.ack(store.job, now, DROPS_DONE),
        lambda store, now: transitions.ack(store.job, now, KEEPS_DONE),
        lambda store, now: transitions.nack(store.job, now, "e", DROPS_DONE, 0.5),
        lambda store, now: transitions.nack(store.job, now, "e", KEEPS_DONE, 0.5),
        lambda store, now: retry_or_bury(store.job, now),
        lambda store, now: transitions.interrupt(store.job, now, "e"),
        lambda store, now: transitions.snooze(store.job, now, "e", 50),
        lambda store, now: transitions.dead_letter(store.job, now, "e"),
        lambda store, now: transitions.take_back(store.job, now),
        lambda store, now: transitions.lose_process(store.job, now, "e", DROPS_DONE, 0.5),
        lambda store, now: transitions.lose_process(store.job, now, "e", KEEPS_DONE, 0.5),
        lambda store, now: transitions.join(store.job),
        lambda store, now: transitions.request_cancel(store.job),
    ],
    JobStatus.DONE: [
        lambda store, now: transitions.expire(store.job, JobStatus.DONE, store.key()),
    ],
    JobStatus.DEAD: [
        lambda store, now: transitions.requeue_dead(store.job, store.key(), now),
        lambda store, now: transitions.requeue_dead(store.job, store.key(), now),
        lambda store, now: transitions.expire(store.job, JobStatus.DEAD, store.key()),
    ],
}


@given(
    picks=st.lists(st.integers(0, 12), max_size=30),
    delayed=st.booleans(),
    dedup_key=st.sampled_from([None, "k"]),
    max_attempts=st.integers(1, 4),
)
def test_a_job_is_in_one_place_and_its_rows_agree_whatever_happens(
    picks: list[int], delayed: bool, dedup_key: str | None, max_attempts: int
) -> None:
    run_at = NOW + 100 if delayed else None
    store = Store(new_job(run_at=run_at, dedup_key=dedup_key, max_attempts=max_attempts))
    for step, pick in enumerate(picks):
        if store.status is None:
            break
        events = EVENTS[store.status]
        store.follow(events[pick % len(events)](store, NOW + step))
        contents = store.contents()
        record = contents.jobs.get("job")
        if store.status is None:
            assert store.rows == {}
        else:
            assert record is not None
            assert record.state == store.status.value
            assert record.attempts <= record.max_attempts
            held = {("q", "k"): "job"} if record.holds_dedup_key else {}
            assert contents.dedup == held


# -- backoff ------------------------------------------------------------------------------------

durations = st.integers(0, 10**12)
policies = st.builds(
    lambda base, longest, jitter: DROPS_DONE._replace(
        backoff_base_ms=min(base, longest), backoff_max_ms=longest, retry_jitter=jitter
    ),
    durations,
    durations,
    st.floats(0, 1),
)


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (99, 300)]
)
def test_backoff_doubles_up_to_its_maximum(attempt: int, seconds: int) -> None:
    policy = QueueConfig(retry_jitter=0).policy()
    assert transitions.backoff_ms(attempt, policy, 0.7) == seconds * 1000


@given(policy=policies, attempt=st.integers(1, 2**31 - 1), chance=st.floats(0, 1))
def test_backoff_stays_within_its_bounds(policy: Policy, attempt: int, chance: float) -> None:
    wait = transitions.backoff_ms(attempt, policy, chance)
    plain = min(policy.backoff_base_ms * 2 ** min(attempt - 1, 100), policy.backoff_max_ms)
    assert plain <= wait <= plain + round(plain * policy.retry_jitter) + 1
    assert transitions.backoff_ms(attempt, policy, 0) == plain


@given(policy=policies, attempt=st.integers(1, 100), chance=st.floats(0, 1))
def test_backoff_never_shrinks(policy: Policy, attempt: int, chance: float) -> None:
    earlier, later = (transitions.backoff_ms(n, policy, chance) for n in (attempt, attempt + 1))
    assert earlier <= later


@given(attempt=st.integers(1, 2**31 - 1), chance=st.floats(0, 1))
def test_backoff_base_zero_never_waits(attempt: int, chance: float) -> None:
    policy = QueueConfig(retry_backoff_base=0, retry_jitter=1).policy()
    assert transitions.backoff_ms(attempt, policy, chance) == 0
