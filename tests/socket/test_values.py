"""What calls carry: everything comes back as it was, and nothing else is accepted."""

from __future__ import annotations

import contextlib
import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taquba import (
    CancelOutcome,
    ClaimLost,
    DuplicateJobId,
    EnqueueRequest,
    EnqueueResult,
    InboxStats,
    InvalidArgument,
    JobAttempt,
    JobPage,
    JobRecord,
    JobStatus,
    KvEntry,
    KvPage,
    Member,
    NackOutcome,
    PayloadDamaged,
    QueueStats,
    RejectedBatch,
    RunningJob,
    SettlementEffects,
    StoreError,
    TaqubaError,
    UnreadableRecord,
    WaitOutcome,
    WaitStatus,
    WakeOutcome,
)
from taquba._line.values import (
    Unreadable,
    dump_arguments,
    dump_error,
    dump_result,
    load_arguments,
    load_error,
    load_result,
)
from taquba._model import errors
from taquba._model.records import AttemptOutcome, Job, with_damage

NOW = datetime(2030, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
RECORD = JobRecord(Job("id", "q", b"payload", {"a": "b"}, 5, 1, 3), JobStatus.DEAD)

LOADED = JobRecord(Job("id", "q", b"content", None, 5, 1, 3, payload_ref="ref"), JobStatus.PENDING)
BARE = JobRecord(Job("id", "q", b"", None, 5, 1, 3, payload_ref="ref"), JobStatus.PENDING)

ARGUMENTS: list[object] = [
    None,
    True,
    5,
    10**300,
    -(2**63) - 1,
    timedelta(days=999_999_999),
    0.25,
    "text",
    "long" * 50_000,
    b"\0bytes",
    "k\ud7ff",
    "lone \ud800",
    ["a", ["b"]],
    ("a", 1),
    timedelta(days=-1, microseconds=3),
    NOW,
    EnqueueRequest("q", b""),
    EnqueueRequest(
        "q",
        b"x" * 100_000,
        run_at=NOW,
        priority=5,
        max_attempts=2,
        headers={"h": "v"},
        kv_writes={"k": b"v", b"\xff": b""},
        job_id="own",
    ),
    EnqueueRequest("q", b"", delay=timedelta(seconds=1), dedup_key="d"),
    SettlementEffects(
        enqueues=[EnqueueRequest("q", b"next")], kv_writes={"a": b"1"}, kv_deletes=["b", b"\xfe"]
    ),
]

RESULTS: list[object] = [
    EnqueueResult("id", True),
    [EnqueueResult("id", False)],
    RECORD,
    LOADED,
    BARE,
    JobPage([RECORD], "cursor", (UnreadableRecord(name="n", key=b"k", reason="r"),)),
    JobPage([], None),
    KvPage([KvEntry("k", b"v")], None),
    KvPage([KvEntry(b"\xff", b"v")], "c"),
    NackOutcome(False, [EnqueueResult("id", True)]),
    QueueStats(1, 2, 3, 4, 5),
    InboxStats(1, 2, NOW, 3),
    [RejectedBatch("name", 5, NOW, "why")],
    [
        JobAttempt(
            attempt=1,
            claimed_at=None,
            recorded_at=NOW,
            outcome=AttemptOutcome.RETRIED,
            error="e",
            counted=True,
            worker="host:1:0a",
        )
    ],
    [
        Member(
            id="host:1:0a",
            host="host",
            pid=1,
            version="1.0",
            role="owner",
            since=NOW,
            places={"q": 8},
            running=(RunningJob("id", "q", NOW),),
        )
    ],
    CancelOutcome.REQUESTED,
    WakeOutcome.WOKEN,
    WaitOutcome(WaitStatus.COMPLETED, RECORD),
    WaitOutcome(WaitStatus.TIMED_OUT),
    NOW,
]


@pytest.mark.parametrize("value", ARGUMENTS, ids=lambda value: f"{value!r:.30}")
def test_arguments_come_back(value: object) -> None:
    again = load_arguments(dump_arguments({"value": value, "other": 1}))
    assert again == {"value": value, "other": 1}
    assert type(again["value"]) is type(value)


@pytest.mark.parametrize("value", [*ARGUMENTS[:15], *RESULTS], ids=lambda value: f"{value!r:.30}")
def test_results_come_back(value: object) -> None:
    again = load_result(dump_result(value))
    assert again == value
    assert type(again) is type(value)


def test_a_damaged_payload_is_told() -> None:
    damage = PayloadDamaged("id", "ref", "it is cut off")
    again = load_result(dump_result(with_damage(BARE, damage)))
    assert isinstance(again, JobRecord)
    with pytest.raises(PayloadDamaged) as raised:
        _ = again.payload
    assert str(raised.value) == str(damage)


@pytest.mark.parametrize(
    "value",
    [
        ValueError("x"),
        bytearray(b"x"),
        {2},
        datetime(2030, 1, 1),  # noqa: DTZ001 - without a zone on purpose
    ],
)
def test_what_no_call_takes_is_called_as_it_was_and_looks_like_it(value: object) -> None:
    again = load_arguments(dump_arguments({"payload": [value]}))["payload"]
    assert isinstance(again, list)
    (stranger,) = again
    assert type(stranger) is not type(value)
    assert (type(stranger).__name__, repr(stranger)) == (type(value).__name__, f"{value!r:.200}")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93",
        msgpack.packb(5),
        msgpack.packb(["name"]),
        msgpack.packb([1, 2]),
        msgpack.packb(["name", ["JobPage", [], None, []]]),
        msgpack.packb(["name", ["JobStatus"]]),
        msgpack.packb(["name", [["list"]]]),
        msgpack.packb(["name", ["unknown", 1]]),
        msgpack.packb(["name", ["text", b"\xff"]]),
        msgpack.packb(["name", []]),
        b"\x92\xa1n" + b"\x91" * 100 + b"\xc0",
        b"\x92\xa1n\xdd\xff\xff\xff\xff",
        msgpack.packb(["name", 1]) + b"\0",
    ],
)
def test_other_bytes_are_no_arguments(data: bytes) -> None:
    with pytest.raises(Unreadable):
        load_arguments(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(Unreadable, TaqubaError):
        load_arguments(data)


def test_a_request_that_is_not_as_it_must_be_is_refused() -> None:
    data: bytes = msgpack.packb(["r", ["EnqueueRequest", "", b"", *[None] * 8]])
    with pytest.raises(InvalidArgument, match="queue name"):
        load_arguments(data)
    few: bytes = msgpack.packb(["r", ["EnqueueRequest", "q", b""]])
    with pytest.raises(Unreadable):
        load_arguments(few)


EXAMPLES: dict[str, Any] = {
    "StoreError": StoreError("broken", permanent=True),
    "DuplicateJobId": DuplicateJobId("id"),
    "ClaimLost": ClaimLost("id", "why"),
}
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, TaqubaError) and kind.__module__ == errors.__name__
]


def made(kind: type[TaqubaError]) -> TaqubaError:
    parameters = list(inspect.signature(kind).parameters.values())
    required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return kind(*(f"{p.name} text" for p in required))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_comes_back(kind: type[TaqubaError]) -> None:
    error = made(kind)
    name, data, text = dump_error(error)
    again = load_error(str(name), data, str(text))
    assert type(again) is kind
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
    assert again.permanent == error.permanent


def test_an_error_of_another_version_is_told_as_it_was_said() -> None:
    error = load_error("NewError", dump_result([[], {}]), "what happened")
    assert type(error) is StoreError
    assert "NewError: what happened" in str(error)
    assert type(load_error("ClaimLost", b"\xc1", "text")) is StoreError
