"""The checker finds each kind of broken promise, and nothing where all were kept."""

from __future__ import annotations

from typing import Any

import pytest

from benches.soak.final import Final
from benches.soak.history import Call
from benches.soak.jobs import CALL_SECONDS
from benches.soak.plan import FOLLOW, LEASE_SECONDS, ORDERS, TASKS
from tests.soak.story import SIZE, Story


@pytest.fixture
def story() -> Story:
    return Story()


def crash(story: Story, *actors: str) -> None:
    """The owner dies; in the next one the actors read what they had done."""
    story.begin_life()
    for actor in actors:
        story.read(actor)


def test_a_story_in_which_everything_is_as_it_should_be(story: Story) -> None:
    for number in range(4):
        story.enqueue(f"a{number}")
    claim = story.claim("a0", "a1")
    story.ack(claim, "a0")
    story.settle("nack", claim, "a1", "retried", lands=False)
    retried = story.claim("a1", attempts=2)
    story.settle("dead_letter", retried, "a1")
    story.call("operator", "requeue_dead", job="a1")
    claim = story.claim("a1")
    story.call("worker", "ack", error="ClaimLost", job="a0", claim="1.worker.1")
    story.ack(claim, "a1")
    crash(story, "worker", "producer")
    story.ack(story.claim("a2"), "a2")
    verdict = story.verdict()
    assert verdict.violations == []
    assert verdict.tally["jobs"] == 4


# -- not lost -----------------------------------------------------------------------------------


def test_an_acknowledged_job_is_gone(story: Story) -> None:
    story.enqueue("a")
    del story.places["a"]
    assert story.broken_rules() == {"not lost"}


def test_a_job_that_nobody_enqueued(story: Story) -> None:
    story.places["a"] = ORDERS, "pending"
    assert story.broken_rules() == {"not lost"}
    story.places.clear()
    story.claim("b")
    assert story.broken_rules() == {"not lost"}


@pytest.mark.parametrize("lands", [True, False])
@pytest.mark.parametrize("answer", [{"error": "StoreError"}, {"returns": False}])
def test_an_enqueue_without_an_answer_may_have_landed_or_not(
    story: Story, lands: bool, answer: dict[str, Any]
) -> None:
    story.enqueue("a", lands=lands, **answer)
    crash(story, "producer")
    assert story.broken_rules() == set()
    assert story.verdict().tally["landed unseen"] == lands


def test_an_enqueue_that_landed_unseen_is_lost_like_any_other(story: Story) -> None:
    story.enqueue("a", returns=False)
    crash(story, "producer")
    del story.places["a"]
    assert story.broken_rules() == {"not lost"}


def test_a_follow_up_is_lost_with_its_task(story: Story) -> None:
    story.enqueue("a", queue=TASKS)
    story.call("tasks", "handle", job=["a", 1000, 1, SIZE, False])
    del story.places["a"]
    story.places["f-a"] = FOLLOW, "pending"
    story.done[TASKS] = 1
    assert story.broken_rules() == set()
    del story.places["f-a"]
    assert story.broken_rules() == {"not lost", "counters"}


# -- atomic, effects ----------------------------------------------------------------------------


def test_a_job_without_the_entry_of_its_enqueue(story: Story) -> None:
    story.enqueue("a", lands=False, returns=False)
    crash(story, "producer")
    story.places["a"] = ORDERS, "pending"
    assert story.broken_rules() == {"atomic"}


def test_a_job_of_a_refused_enqueue_is_handed_out(story: Story) -> None:
    story.enqueue("a", lands=False, error="InvalidArgument")
    story.claim("a")
    assert story.broken_rules() == {"atomic", "errors"}


def test_a_job_may_be_handed_out_before_its_enqueue_is_durable(story: Story) -> None:
    story.enqueue("a", lands=False, returns=False)
    story.claim("a")
    crash(story, "producer")
    assert story.broken_rules() == set()
    story.claim("a")
    assert story.broken_rules() == {"atomic"}


def test_nothing_that_was_decided_on_a_job_is_durable_without_it(story: Story) -> None:
    story.enqueue("a", lands=False, returns=False)
    claim = story.claim("a")
    story.settle("nack", claim, "a", "retried", lands=False)
    crash(story, "producer")
    assert story.broken_rules() == {"atomic"}


def test_the_entry_of_an_acknowledged_call_is_missing(story: Story) -> None:
    story.enqueue("a")
    story.enqueue("b")
    story.ledgers["producer"] = story.lives[0].calls[0].id
    assert story.broken_rules() == {"effects"}


def test_a_retried_job_had_effects(story: Story) -> None:
    story.enqueue("a")
    claim = story.claim("a")
    story.settle("nack", claim, "a", "retried")
    assert story.broken_rules() == {"effects"}


def test_an_actor_that_goes_on_in_doubt_is_a_mistake_of_the_soak(story: Story) -> None:
    story.enqueue("a", error="StoreError")
    story.enqueue("b")
    with pytest.raises(ValueError, match="in doubt"):
        story.verdict()


# -- settled once -------------------------------------------------------------------------------


def test_a_claim_is_settled_twice(story: Story) -> None:
    story.enqueue("a")
    claim = story.claim("a")
    story.ack(claim, "a")
    story.ack(claim, "a")
    story.done[ORDERS] = 2
    assert story.broken_rules() == {"settled once"}


def test_a_job_ends_with_two_claims(story: Story) -> None:
    story.enqueue("a")
    first = story.claim("a")
    story.now += LEASE_SECONDS
    second = story.claim("a", actor="other", attempts=2)
    story.ack(second, "a")
    story.ack(first, "a")
    story.done[ORDERS] = 2
    assert story.broken_rules() == {"settled once"}


def test_a_lost_claim_is_settled(story: Story) -> None:
    story.enqueue("a")
    first = story.claim("a")
    story.now += LEASE_SECONDS
    story.claim("a", actor="other", attempts=2)
    story.settle("nack", first, "a", "retried", lands=False)
    assert story.broken_rules() == {"settled once"}


def test_an_acknowledged_job_is_still_there(story: Story) -> None:
    story.enqueue("a")
    story.ack(story.claim("a"), "a")
    story.places["a"] = ORDERS, "pending"
    assert story.broken_rules() == {"settled once"}


@pytest.mark.parametrize("dies", [True, False])
def test_an_acknowledged_job_is_handed_out_again(story: Story, dies: bool) -> None:
    story.enqueue("a")
    story.ack(story.claim("a"), "a")
    if dies:
        crash(story, "worker", "producer")
    story.claim("a", attempts=2)
    assert story.broken_rules() == {"settled once"}


def test_a_cancelled_job_is_acknowledged(story: Story) -> None:
    story.enqueue("a")
    claim = story.claim("a")
    cancel = story.call("operator", "cancel", "removed", job="a")
    story.ledgers["operator"] = cancel.id
    story.ack(claim, "a")
    assert story.broken_rules() == {"settled once"}


def test_a_job_dies_twice_without_being_requeued(story: Story) -> None:
    story.enqueue("a")
    for _ in range(2):
        story.settle("dead_letter", story.claim("a"), "a")
    assert story.broken_rules() == {"settled once"}


def test_a_job_is_in_two_places() -> None:
    jobs = {"pending": [["a", 0, SIZE]], "dead": [["a", 0, SIZE]]}
    stats = {"pending": 1, "scheduled": 0, "claimed": 0, "done": 0, "dead": 1}
    final = Final.of({"queues": {ORDERS: {"stats": stats, "jobs": jobs}}, "kv": {}})
    assert [text.partition(":")[0] for text in final.violations] == ["one place"]


# -- one holder ---------------------------------------------------------------------------------


def test_a_job_is_handed_to_two(story: Story) -> None:
    story.enqueue("a")
    story.claim("a")
    story.claim("a", actor="other", attempts=2)
    assert story.broken_rules() == {"one holder"}


def test_the_next_owner_takes_all_jobs_back_at_once(story: Story) -> None:
    story.enqueue("a")
    story.claim("a")
    crash(story, "worker", "producer")
    story.claim("a", suspect=True)
    assert story.broken_rules() == set()


# -- order, nothing hidden, dedup ---------------------------------------------------------------


def order_of(story: Story, *claimed: tuple[str, int]) -> set[str]:
    """Rules that are broken by claiming jobs with these priorities in this order."""
    for job_id, priority in claimed:
        story.ack(story.claim(job_id, priority=priority), job_id)
    return story.broken_rules()


def test_a_lower_id_waits_while_a_higher_one_is_claimed(story: Story) -> None:
    story.enqueue("a")
    story.enqueue("b")
    assert order_of(story, ("b", 1000), ("a", 1000)) == {"order"}


def test_a_higher_priority_waits(story: Story) -> None:
    story.enqueue("a", priority=1000)
    story.enqueue("b", priority=10)
    assert order_of(story, ("a", 1000), ("b", 10)) == {"order"}


def test_a_batch_is_out_of_order(story: Story) -> None:
    story.enqueue("a")
    story.enqueue("b")
    story.claim("b", "a")
    assert story.broken_rules() == {"order"}


def test_the_queue_is_said_to_be_empty_while_a_job_waits(story: Story) -> None:
    story.enqueue("a")
    story.claim()
    order_of(story, ("a", 1000))
    long_after(story)
    assert story.broken_rules() == {"nothing hidden"}


def long_after(story: Story) -> None:
    """The owner lives on for so long that no suspect can have been waiting unseen."""
    story.now += 60
    story.claim()


def test_a_queue_may_seem_empty_while_a_suspect_runs(story: Story) -> None:
    story.enqueue("a")
    story.claim("a")
    story.begin_life()
    story.enqueue("b")
    suspect = story.claim("a", suspect=True)
    story.claim(actor="other")
    story.ack(suspect, "a")
    order_of(story, ("b", 1000))
    long_after(story)
    assert story.broken_rules() == set()


def test_a_queue_does_not_seem_empty_once_the_last_suspect_has_ended(story: Story) -> None:
    story.enqueue("a")
    story.claim("a")
    story.begin_life()
    story.enqueue("b")
    story.ack(story.claim("a", suspect=True), "a")
    story.claim(actor="other")
    order_of(story, ("b", 1000))
    long_after(story)
    assert story.broken_rules() == {"nothing hidden"}


def test_the_order_holds_beside_suspects(story: Story) -> None:
    story.enqueue("a")
    story.claim("a")
    story.begin_life()
    story.enqueue("b")
    story.enqueue("c")
    story.ack(story.claim("a", suspect=True), "a")
    assert order_of(story, ("c", 1000), ("b", 1000)) == {"order"}


def meanwhile(call: Call, other: Call) -> None:
    """Let `call` have been made before `other` returned."""
    assert other.end is not None
    call.begin = other.end - STEP_BACK


STEP_BACK = 0.001


def test_jobs_that_come_while_a_claim_is_made_may_be_missed(story: Story) -> None:
    claim = story.claim()
    enqueue = story.enqueue("a")
    claim.end = enqueue.end
    assert order_of(story, ("a", 1000)) == set()


def test_claims_at_the_same_time_may_take_effect_in_any_order(story: Story) -> None:
    story.enqueue("a")
    story.enqueue("b")
    second = story.claim("b")
    first = story.claim("a", actor="other")
    meanwhile(first, second)
    assert story.broken_rules() == set()


def test_a_failed_claim_may_have_held_the_job(story: Story) -> None:
    story.enqueue("a")
    story.claim(actor="other", error="StoreError")
    story.claim()
    assert order_of(story, ("a", 1000)) == set()


def test_two_jobs_hold_a_dedup_key(story: Story) -> None:
    story.enqueue("a", key="k")
    story.enqueue("b", key="k")
    assert order_of(story, ("a", 1000)) == {"dedup"}


def test_a_dedup_key_is_free_once_its_job_was_claimed(story: Story) -> None:
    story.enqueue("a", key="k")
    story.ack(story.claim("a"), "a")
    story.enqueue("b", key="k")
    assert order_of(story, ("b", 1000)) == set()


def test_an_owner_that_does_not_know_yet_that_it_is_fenced_may_hand_out_what_it_remembers(
    story: Story,
) -> None:
    story.enqueue("a", key="k")
    former = story.lives[0]
    story.begin_life()
    story.ack(story.claim("a"), "a")
    story.enqueue("b", key="k", actor="other producer")
    story.claim("a", actor="other", life=former)
    assert order_of(story, ("b", 1000)) == set()


def repeated(story: Story, found: str) -> None:
    jobs = [["again", ORDERS, 1000, SIZE, False, "k"]]
    story.call("producer", "enqueue", [[found, False]], jobs=jobs)


def test_an_enqueue_finds_the_job_that_holds_its_key(story: Story) -> None:
    story.enqueue("a", key="k")
    repeated(story, "a")
    assert order_of(story, ("a", 1000)) == set()


def test_an_enqueue_finds_a_job_that_holds_its_key_no_more(story: Story) -> None:
    story.enqueue("a", key="k")
    story.ack(story.claim("a"), "a")
    repeated(story, "a")
    assert story.broken_rules() == {"dedup"}


def test_an_enqueue_finds_a_job_that_never_had_its_key(story: Story) -> None:
    story.enqueue("a", key="other")
    repeated(story, "a")
    assert story.broken_rules() == {"dedup"}


# -- the rest -----------------------------------------------------------------------------------


def test_an_owner_commits_after_it_was_fenced(story: Story) -> None:
    first = story.lives[0]
    story.begin_life()
    story.enqueue("a", life=first)
    assert story.broken_rules() == {"fenced"}


@pytest.mark.parametrize(
    ("steps", "value", "rules"),
    [
        ([1, 2], "2", set()),
        ([1, 1], "1", {"compare-and-set"}),
        ([1, 2], "1", {"compare-and-set"}),
        ([1, 3], "3", {"compare-and-set"}),
    ],
)
def test_steps_of_a_counter(story: Story, steps: list[int], value: str, rules: set[str]) -> None:
    for step in steps:
        story.call("counter", "count", True, counter="both", to=step)
    story.counters["both"] = value
    assert story.broken_rules() == rules


def test_another_payload_is_handed_out(story: Story) -> None:
    story.enqueue("a")
    claim = story.claim("a")
    claim.result[0][3] = None
    assert story.broken_rules() == {"content"}


@pytest.mark.parametrize("counter", ["pending", "done"])
def test_counters_are_wrong(story: Story, counter: str) -> None:
    for job_id in ("a", "b"):
        story.enqueue(job_id)
    story.ack(story.claim("a"), "a")
    final = story.final()
    final.stats[ORDERS][counter] += 1
    assert story.broken_rules(final) == {"counters"}


def test_a_done_job_is_kept_where_none_should_be(story: Story) -> None:
    story.enqueue("a")
    story.ack(story.claim("a"), "a")
    story.places["a"] = ORDERS, "done"
    final = story.final()
    final.stats[ORDERS]["done"] = 1
    assert story.broken_rules(final) == {"no leak"}


def test_a_call_hangs(story: Story) -> None:
    call = story.enqueue("a")
    assert call.end is not None
    call.end += CALL_SECONDS
    assert story.broken_rules() == {"in time"}


def test_a_call_is_refused_that_should_not_be(story: Story) -> None:
    story.enqueue("a", lands=False, error="DuplicateJobId")
    assert story.broken_rules() == {"errors"}


def test_workers_are_woken_for_nothing(story: Story) -> None:
    for _ in range(1100):
        story.claim()
    assert story.broken_rules() == {"no busy waiting"}


# -- no innocent pays ---------------------------------------------------------------------------


def test_a_job_that_ran_beside_others_lost_an_attempt_with_its_owner(story: Story) -> None:
    story.enqueue("a")
    story.claim("a")
    crash(story, "producer")
    again = story.claim("a", attempts=2, suspect=True)
    assert story.broken_rules() == {"no innocent pays"}
    again.result[0][2] = 1
    assert story.broken_rules() == set()


def test_a_handler_of_a_worker_lost_an_attempt_with_its_owner(story: Story) -> None:
    story.enqueue("a", queue=TASKS)
    story.call("tasks", "handle", job=["a", 1000, 1, SIZE, False], returns=False)
    # An owner that never had the store open has handed out nothing.
    story.begin_life().opened = None
    crash(story, "producer")
    again = story.call("tasks", "handle", job=["a", 1000, 2, SIZE, True], returns=False)
    assert story.broken_rules() == {"no innocent pays"}
    again.asked["job"][2] = 1
    assert story.broken_rules() == set()


def test_an_attempt_may_have_been_spent_if_the_job_ran_alone(story: Story) -> None:
    story.enqueue("a")
    story.claim("a", suspect=True)
    crash(story, "producer")
    story.claim("a", attempts=2, suspect=True)
    assert story.broken_rules() == set()


def test_an_attempt_may_have_been_spent_by_a_failure(story: Story) -> None:
    story.enqueue("a")
    story.settle("nack", story.claim("a"), "a", returns=False, lands=False)
    crash(story, "producer", "worker")
    story.claim("a", attempts=2)
    assert story.broken_rules() == set()


@pytest.mark.parametrize("before", [True, False])
def test_an_attempt_may_have_been_spent_by_a_lease_that_expired(story: Story, before: bool) -> None:
    story.enqueue("a")
    story.claim("a")
    story.now += before * LEASE_SECONDS
    crash(story, "producer")
    story.now += (not before) * LEASE_SECONDS
    story.claim("a", attempts=2)
    assert story.broken_rules() == set()
