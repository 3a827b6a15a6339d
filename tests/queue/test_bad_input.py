"""Bad input gets an error that names it, before anything is written."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import taquba
from taquba import (
    MAX_KV_VALUE_SIZE,
    CancelRequested,
    ClaimLost,
    DuplicateJobId,
    EnqueueRequest,
    EntryChanged,
    ForkedError,
    InboxNotOpen,
    IncompatibleStore,
    InvalidArgument,
    InvalidArgumentType,
    InvalidJobId,
    InvalidQueueName,
    InvalidState,
    JobNotFound,
    KvValueTooLarge,
    ObjectDamaged,
    OwnerUnreachable,
    PayloadDamaged,
    PayloadMissing,
    ProducerClosed,
    Queue,
    QueueClosed,
    QueueConfig,
    SettlementEffects,
    StoreError,
    StoreFenced,
    StoreNotInitialized,
    StoreOwned,
    TaqubaError,
    WrongEventLoop,
    run_worker,
)
from taquba._model import keys
from taquba._model.codec import encode_meta
from taquba._store.transaction import Transaction
from tests.queue.support import OpenQueue, fresh_url, must_claim, rows

Call = Callable[[Queue], Awaitable[object]]
Case = tuple[Call, type[TaqubaError], str]

NAIVE = datetime(2030, 1, 2)  # noqa: DTZ001 - what is to be refused
HUGE = 10**400

BAD_QUEUE_NAMES: Mapping[str, tuple[Any, type[TaqubaError], str]] = {
    "empty": ("", InvalidQueueName, "''"),
    "256 bytes": ("ä" * 128, InvalidQueueName, "äää"),
    "newline": ("a\nb", InvalidQueueName, r"'a\\nb'"),
    "NUL": ("a\0", InvalidQueueName, r"'a\\x00'"),
    "lone surrogate": ("a\udc80", InvalidQueueName, r"'a\\udc80'"),
    "None": (None, InvalidArgumentType, "None"),
    "bytes": (b"q", InvalidArgumentType, "b'q'"),
    "list": (["q"], InvalidArgumentType, r"\['q'\]"),
}

NAMED_CALLS: Mapping[str, Callable[[Queue, Any], Awaitable[object]]] = {
    "enqueue": lambda queue, name: queue.enqueue(name, b""),
    "claim": lambda queue, name: queue.claim(name),
    "claim_batch": lambda queue, name: queue.claim_batch(name, 1),
    "wait_for_jobs_on": lambda queue, name: queue.wait_for_jobs_on("q", name, timeout=0),
    "stats": lambda queue, name: queue.stats(name),
    "list_jobs": lambda queue, name: queue.list_jobs(name, "pending"),
    "dead_jobs": lambda queue, name: queue.dead_jobs(name),
    "run_worker": lambda queue, name: run_worker(queue, name, lambda _job, _lease: None),
}


async def refused(queue: Queue, call: Call, kind: type[BaseException], message: str) -> None:
    """`call` raises `kind` with `message`, permanently, and leaves the store as it was."""
    before = await rows(queue)
    names = await queue.list_queues()
    with pytest.raises(kind, match=message) as error:
        await call(queue)
    assert isinstance(error.value, TaqubaError)
    assert error.value.permanent
    assert await rows(queue) == before
    assert await queue.list_queues() == names
    # Nothing stays locked or half done either.
    await queue.enqueue("q", b"", dedup_key="still open", kv_writes={"still": b"open"})


@pytest.mark.parametrize("call", NAMED_CALLS.values(), ids=NAMED_CALLS)
@pytest.mark.parametrize("case", BAD_QUEUE_NAMES.values(), ids=BAD_QUEUE_NAMES)
async def test_queue_name(
    queue: Queue,
    call: Callable[[Queue, Any], Awaitable[object]],
    case: tuple[Any, type[TaqubaError], str],
) -> None:
    name, kind, message = case
    await refused(queue, lambda queue: call(queue, name), kind, message)


async def test_queue_names_at_the_limit_are_fine(queue: Queue) -> None:
    for name in ("q", "x" * 255, "ä" * 127, "with space", "a/b:c.d"):
        await queue.enqueue(name, b"")
        assert (await must_claim(queue, name)).queue == name
    assert await queue.list_queues() == sorted(["q", "x" * 255, "ä" * 127, "with space", "a/b:c.d"])


@pytest.mark.parametrize("job_id", ["", "x" * 129, "a b", "a\udc80", None, 5, b"a"])
@pytest.mark.parametrize(
    "call",
    [
        lambda queue, job_id: queue.enqueue("q", b"", job_id=job_id or ""),
        lambda queue, job_id: queue.cancel(job_id),
        lambda queue, job_id: queue.wake_scheduled(job_id),
        lambda queue, job_id: queue.requeue_dead(job_id),
        lambda queue, job_id: queue.purge_dead(job_id),
        lambda queue, job_id: queue.get_job(job_id),
        lambda queue, job_id: queue.attempt_history(job_id),
        lambda queue, job_id: queue.wait_for_completion(job_id, timeout=0),
    ],
    ids=["enqueue", "cancel", "wake", "requeue", "purge", "get_job", "attempt_history", "wait"],
)
async def test_job_id(
    queue: Queue, call: Callable[[Queue, Any], Awaitable[object]], job_id: Any
) -> None:
    await refused(queue, lambda queue: call(queue, job_id), InvalidJobId, "1 to 128 characters")


ENQUEUE_OPTIONS: Mapping[str, tuple[dict[str, Any], type[TaqubaError], str]] = {
    "naive run_at": ({"run_at": NAIVE}, InvalidArgument, "run_at.*2030, 1, 2.*naive"),
    "run_at before 1970": (
        {"run_at": datetime(1969, 1, 1, tzinfo=UTC)},
        InvalidArgument,
        "run_at.*1969",
    ),
    "run_at as a number": ({"run_at": 5}, InvalidArgumentType, "run_at.*5"),
    "run_at and delay": (
        {"run_at": datetime(2031, 1, 1, tzinfo=UTC), "delay": 5},
        InvalidArgument,
        "run_at or delay",
    ),
    "negative delay": ({"delay": -1}, InvalidArgument, "delay.*-1"),
    "negative timedelta": ({"delay": timedelta(seconds=-1)}, InvalidArgument, "delay.*days=-1"),
    "NaN delay": ({"delay": float("nan")}, InvalidArgument, "delay.*nan"),
    "infinite delay": ({"delay": float("inf")}, InvalidArgument, "delay.*inf"),
    "absurd delay": ({"delay": 1e11}, InvalidArgument, r"delay.*1e\+11|delay.*100000000000"),
    "absurd int delay": ({"delay": HUGE}, InvalidArgument, "delay.*hundred years"),
    "absurd timedelta": ({"delay": timedelta.max}, InvalidArgument, "delay.*999999999"),
    "text delay": ({"delay": "5"}, InvalidArgumentType, "delay.*'5'"),
    "bool delay": ({"delay": True}, InvalidArgumentType, "delay.*True"),
    "negative priority": ({"priority": -1}, InvalidArgument, "priority.*-1"),
    "priority over u32": ({"priority": 2**32}, InvalidArgument, "priority.*4294967296"),
    "float priority": ({"priority": 1.5}, InvalidArgumentType, "priority.*1.5"),
    "no attempts": ({"max_attempts": 0}, InvalidArgument, "max_attempts.*0"),
    "attempts over the limit": ({"max_attempts": 2**31}, InvalidArgument, "max_attempts.*2147"),
    "empty dedup key": ({"dedup_key": ""}, InvalidArgument, "dedup_key"),
    "long dedup key": ({"dedup_key": "x" * 1025}, InvalidArgument, "dedup_key.*1025"),
    "bytes dedup key": ({"dedup_key": b"k"}, InvalidArgumentType, "dedup_key.*b'k'"),
    "surrogate dedup key": ({"dedup_key": "\udc80"}, InvalidArgument, r"dedup_key.*\\udc80"),
    "header of bytes": ({"headers": {"h": b"v"}}, InvalidArgumentType, "headers.*'h': b'v'"),
    "headers of pairs": ({"headers": [("h", "v")]}, InvalidArgumentType, "headers"),
    "surrogate header": ({"headers": {"h": "\udc80"}}, InvalidArgument, r"header.*\\udc80"),
    "oversized kv value": (
        {"kv_writes": {"k": bytes(MAX_KV_VALUE_SIZE + 1)}},
        KvValueTooLarge,
        "'k' has 262145 bytes; at most 262144",
    ),
    "text kv value": ({"kv_writes": {"k": "v"}}, InvalidArgumentType, "'k' must be bytes"),
    "empty kv key": (
        {"kv_writes": {"": b"v"}},
        InvalidArgument,
        "key must have 1 to 4096 bytes; got 0",
    ),
    "number as kv key": ({"kv_writes": {5: b"v"}}, InvalidArgumentType, "key.*5"),
    "kv_writes as list": ({"kv_writes": ["k"]}, InvalidArgumentType, r"kv_writes.*\['k'\]"),
    "one kv key twice": ({"kv_writes": {"k": b"", b"k": b""}}, InvalidArgument, "'k' twice"),
}


@pytest.mark.parametrize("case", ENQUEUE_OPTIONS.values(), ids=ENQUEUE_OPTIONS)
async def test_enqueue_option(
    queue: Queue, case: tuple[dict[str, Any], type[TaqubaError], str]
) -> None:
    options, kind, message = case
    await refused(queue, lambda queue: queue.enqueue("q", b"", **options), kind, message)
    # The same at the construction of a request.
    with pytest.raises(kind, match=message):
        EnqueueRequest("q", b"", **options)


@pytest.mark.parametrize("payload", ["text", None, 5, ["x"], {"a": 1}])
async def test_payload(queue: Queue, payload: Any) -> None:
    await refused(
        queue,
        lambda queue: queue.enqueue("q", payload),
        InvalidArgumentType,
        f"payload must be bytes, not {type(payload).__name__}",
    )


async def test_batch_of_something_else(queue: Queue) -> None:
    requests: Any = [EnqueueRequest("q", b""), ("q", b"")]
    await refused(
        queue,
        lambda queue: queue.enqueue_batch(requests),
        InvalidArgumentType,
        "each request must be an EnqueueRequest, not tuple",
    )


DURATION_CALLS: Mapping[str, Callable[[Queue, Any], Awaitable[object]]] = {
    "claim lease": lambda queue, value: queue.claim("q", lease=value),
    "claim wait": lambda queue, value: queue.claim("q", wait=value),
    "wait_for_jobs_on timeout": lambda queue, value: queue.wait_for_jobs_on("q", timeout=value),
    "wait_for_completion timeout": lambda queue, value: queue.wait_for_completion("x", value),
    "run_worker lease": lambda queue, value: run_worker(queue, "q", print, lease=value),
    "run_worker poll_interval": (
        lambda queue, value: run_worker(queue, "q", print, poll_interval=value)
    ),
    "run_worker timeout": lambda queue, value: run_worker(queue, "q", print, timeout=value),
    "run_worker drain_timeout": (
        lambda queue, value: run_worker(queue, "q", print, drain_timeout=value)
    ),
}


@pytest.mark.parametrize(
    "value", [-1, -0.001, timedelta(-1), float("nan"), 1e12, HUGE], ids=lambda v: str(v)[:12]
)
@pytest.mark.parametrize("call", DURATION_CALLS.values(), ids=DURATION_CALLS)
async def test_duration(
    queue: Queue, call: Callable[[Queue, Any], Awaitable[object]], value: Any
) -> None:
    message = "must be between 0 and a hundred years, in seconds; got"
    await refused(queue, lambda queue: call(queue, value), InvalidArgument, message)


@pytest.mark.parametrize("call", DURATION_CALLS.values(), ids=DURATION_CALLS)
async def test_duration_of_another_type(
    queue: Queue, call: Callable[[Queue, Any], Awaitable[object]]
) -> None:
    await refused(queue, lambda queue: call(queue, "5"), InvalidArgumentType, "seconds.*'5'")


@pytest.mark.parametrize("name", ["claim lease", "run_worker lease", "run_worker timeout"])
async def test_duration_that_cannot_be_zero(queue: Queue, name: str) -> None:
    what = name.split()[1]
    await refused(
        queue,
        lambda queue: DURATION_CALLS[name](queue, 0),
        InvalidArgument,
        f"{what} must be at least 0.001 s; got 0",
    )


KV_CALLS: Mapping[str, Case] = {
    "get empty": (lambda q: q.kv_get(""), InvalidArgument, "1 to 4096 bytes; got 0"),
    "get number": (lambda q: q.kv_get(5), InvalidArgumentType, "5"),  # type: ignore[arg-type]
    "get surrogate": (lambda q: q.kv_get("\udc80"), InvalidArgument, r"\\udc80"),
    "put long key": (lambda q: q.kv_put("x" * 4097, b""), InvalidArgument, "got 4097"),
    "put empty key": (lambda q: q.kv_put(b"", b"v"), InvalidArgument, "got 0"),
    "put text": (lambda q: q.kv_put("k", "v"), InvalidArgumentType, "'k' must be bytes"),  # type: ignore[arg-type]
    "put too much": (
        lambda q: q.kv_put("k", bytes(MAX_KV_VALUE_SIZE + 1)),
        KvValueTooLarge,
        "'k' has 262145 bytes",
    ),
    "delete number": (lambda q: q.kv_delete(5), InvalidArgumentType, "5"),  # type: ignore[arg-type]
    "compare_put too much": (
        lambda q: q.kv_compare_put("k", None, bytes(MAX_KV_VALUE_SIZE + 1)),
        KvValueTooLarge,
        "'k' has 262145 bytes",
    ),
    "compare_put expects text": (
        lambda q: q.kv_compare_put("k", "v", b"w"),  # type: ignore[arg-type]
        InvalidArgumentType,
        "'k' must be bytes, not str",
    ),
    "compare_delete expects None": (
        lambda q: q.kv_compare_delete("k", None),  # type: ignore[arg-type]
        InvalidArgumentType,
        "'k' must be bytes, not NoneType",
    ),
    "scan number": (lambda q: q.kv_scan(5), InvalidArgumentType, "prefix"),  # type: ignore[type-var]
    "scan surrogate": (lambda q: q.kv_scan("\udc80"), InvalidArgument, r"\\udc80"),
    "scan limit 0": (lambda q: q.kv_scan("", limit=0), InvalidArgument, "limit.*0"),
    "scan limit": (lambda q: q.kv_scan("", limit=10_001), InvalidArgument, "limit.*10001"),
    "scan cursor": (lambda q: q.kv_scan("", cursor="nonsense"), InvalidArgument, "'nonsense'"),
    "scan cursor type": (lambda q: q.kv_scan("", cursor=5), InvalidArgumentType, "cursor.*5"),  # type: ignore[arg-type]
    "jobs limit": (lambda q: q.list_jobs("q", "pending", limit=0), InvalidArgument, "limit.*0"),
    "jobs cursor": (
        lambda q: q.list_jobs("q", "pending", cursor="ä"),
        InvalidArgument,
        "cursor 'ä'",
    ),
    "jobs status": (lambda q: q.list_jobs("q", "dying"), InvalidArgument, "'dying'"),
    "wake payload": (lambda q: q.wake_scheduled("x", "v"), InvalidArgumentType, "payload.*str"),  # type: ignore[arg-type]
    "wake payload size": (
        lambda q: q.wake_scheduled("x", bytes(MAX_KV_VALUE_SIZE + 1)),
        InvalidArgument,
        "262145 bytes; at most 262144 fit: store it as an object",
    ),
    "cancel effects": (
        lambda q: q.cancel("x", {"kv_writes": {}}),  # type: ignore[arg-type]
        InvalidArgumentType,
        "effects must be a SettlementEffects, not dict",
    ),
    "expiry of a number": (
        lambda q: q.lease_expiry(5),  # type: ignore[arg-type]
        InvalidArgumentType,
        "5|int",
    ),
}


@pytest.mark.parametrize("case", KV_CALLS.values(), ids=KV_CALLS)
async def test_entries_listings_and_operations(queue: Queue, case: Case) -> None:
    call, kind, message = case
    await refused(queue, call, kind, message)


# -- settlements --------------------------------------------------------------------------------


SETTLEMENTS: Mapping[str, Callable[[Queue, Any], Awaitable[object]]] = {
    "ack": lambda queue, claim: queue.ack(claim),
    "nack": lambda queue, claim: queue.nack(claim, "error"),
    "dead_letter": lambda queue, claim: queue.dead_letter(claim, "reason"),
    "renew_lease": lambda queue, claim: queue.renew_lease(claim, 5),
}


@pytest.mark.parametrize("settle", SETTLEMENTS.values(), ids=SETTLEMENTS)
async def test_settling_something_else_than_a_claim(
    queue: Queue, settle: Callable[[Queue, Any], Awaitable[object]]
) -> None:
    await queue.enqueue("q", b"", job_id="a")
    claim = await must_claim(queue)
    record = await queue.get_job("a")
    for value, kind in ((record, "JobRecord"), (claim.job, "JobRecord"), ("a", "str")):
        await refused(
            queue,
            lambda queue, value=value: settle(queue, value),  # type: ignore[misc]
            InvalidArgumentType,
            f"only a Claim can be settled or renewed, not {kind}",
        )
    await queue.ack(claim)


@pytest.mark.parametrize("settle", SETTLEMENTS.values(), ids=SETTLEMENTS)
async def test_a_claim_of_another_queue_object(
    open_queue: OpenQueue, settle: Callable[[Queue, Any], Awaitable[object]]
) -> None:
    one, other = await open_queue(), await open_queue()
    for queue in (one, other):
        await queue.enqueue("q", b"", job_id="same")
    claim = await must_claim(one)
    await must_claim(other)
    await refused(
        other,
        lambda queue: settle(queue, claim),
        InvalidArgument,
        "'same' belongs to another handle",
    )
    await one.ack(claim)


BAD_SETTLEMENTS: Mapping[str, tuple[Callable[[Queue, Any], Awaitable[object]], str]] = {
    "ack effects": (
        lambda queue, claim: queue.ack(claim, {"kv_writes": {}}),  # type: ignore[arg-type]
        "effects must be a SettlementEffects, not dict",
    ),
    "nack effects": (
        lambda queue, claim: queue.nack(claim, "error", [EnqueueRequest("q", b"")]),  # type: ignore[arg-type]
        "effects must be a SettlementEffects, not list",
    ),
    "dead_letter effects": (
        lambda queue, claim: queue.dead_letter(claim, "reason", "x"),  # type: ignore[arg-type]
        "effects must be a SettlementEffects, not str",
    ),
    "nack error": (
        lambda queue, claim: queue.nack(claim, ValueError("x")),  # type: ignore[arg-type]
        r"error must be a str, not ValueError\('x'\)",
    ),
    "dead_letter reason": (
        lambda queue, claim: queue.dead_letter(claim, None),  # type: ignore[arg-type]
        "reason must be a str, not None",
    ),
    "renew_lease": (
        lambda queue, claim: queue.renew_lease(claim, "9"),  # type: ignore[arg-type]
        "extension must be seconds.*'9'",
    ),
}


@pytest.mark.parametrize("case", BAD_SETTLEMENTS.values(), ids=BAD_SETTLEMENTS)
async def test_bad_settlements_leave_the_claim_held(
    queue: Queue, case: tuple[Callable[[Queue, Any], Awaitable[object]], str]
) -> None:
    settle, message = case
    await queue.enqueue("q", b"")
    claim = await must_claim(queue)
    await refused(queue, lambda queue: settle(queue, claim), InvalidArgumentType, message)
    await queue.ack(claim)


BAD_EFFECTS: Mapping[str, tuple[dict[str, Any], type[TaqubaError], str]] = {
    "enqueues of tuples": ({"enqueues": [("q", b"")]}, InvalidArgumentType, r"\('q', b''\)"),
    "one enqueue": ({"enqueues": EnqueueRequest("q", b"")}, InvalidArgumentType, "enqueues"),
    "one key to delete": ({"kv_deletes": "abc"}, InvalidArgumentType, "'abc'"),
    "no key to delete": ({"kv_deletes": [""]}, InvalidArgument, "got 0"),
    "text value": ({"kv_writes": {"k": "v"}}, InvalidArgumentType, "'k' must be bytes"),
    "large value": (
        {"kv_writes": {"k": bytes(MAX_KV_VALUE_SIZE + 1)}},
        KvValueTooLarge,
        "'k' has 262145 bytes",
    ),
    "one key twice": ({"kv_writes": {"k": b"1", b"k": b"1"}}, InvalidArgument, "'k' twice"),
    "written and deleted": (
        {"kv_writes": {"k": b""}, "kv_deletes": [b"k"]},
        InvalidArgument,
        "b'k' is in kv_writes and in kv_deletes",
    ),
    "brought by a job and deleted": (
        {"enqueues": [EnqueueRequest("q", b"", kv_writes={"k": b""})], "kv_deletes": ["k"]},
        InvalidArgument,
        "b'k' is in the kv_writes of a job",
    ),
    "brought by a job and written otherwise": (
        {"enqueues": [EnqueueRequest("q", b"", kv_writes={"k": b""})], "kv_writes": {b"k": b"x"}},
        InvalidArgument,
        "b'k' is in the kv_writes of a job",
    ),
}


@pytest.mark.parametrize("case", BAD_EFFECTS.values(), ids=BAD_EFFECTS)
def test_effects_are_checked_when_they_are_made(
    case: tuple[dict[str, Any], type[TaqubaError], str],
) -> None:
    options, kind, message = case
    with pytest.raises(kind, match=message):
        SettlementEffects(**options)


# -- opening ------------------------------------------------------------------------------------


BAD_OPENINGS: Mapping[str, tuple[Any, dict[str, Any], type[TaqubaError], str]] = {
    "unknown scheme": ("ftp://host/x", {}, InvalidArgument, "'ftp://host/x' has an unknown scheme"),
    "malformed": ("s3://[x/y", {}, InvalidArgument, r"'s3://\[x/y'"),
    "empty": ("", {}, InvalidArgument, "empty"),
    "blank": ("  ", {}, InvalidArgument, "empty"),
    "too many levels": (f"/tmp{'/x' * 1500}", {}, StoreError, "1502 levels"),
    "number": (5, {}, InvalidArgumentType, "5"),
    "file URL with a host": ("file://host/x", {}, InvalidArgument, "'file://host/x'"),
    "file URL without a path": ("file://", {}, InvalidArgument, "'file://'"),
    "bucket without a prefix": ("s3://bucket", {}, InvalidArgument, "'s3://bucket' needs"),
    "no bucket": ("s3:///prefix", {}, InvalidArgument, "'s3:///prefix' needs"),
    "config of another type": (
        "memory://",
        {"default_config": {"max_attempts": 3}},
        InvalidArgumentType,
        "default_config must be a QueueConfig, not dict",
    ),
    "queue config of another type": (
        "memory://",
        {"queue_configs": {"q": 5}},
        InvalidArgumentType,
        r"queue_configs\['q'\] must be a QueueConfig, not int",
    ),
    "queue configs as a list": (
        "memory://",
        {"queue_configs": [QueueConfig()]},
        InvalidArgumentType,
        "queue_configs must map",
    ),
    "configured queue name": (
        "memory://",
        {"queue_configs": {"": QueueConfig()}},
        InvalidQueueName,
        "''",
    ),
    "clock": ("memory://", {"clock": 5}, InvalidArgumentType, "clock must be a Clock, not int"),
    "flush_interval": ("memory://", {"flush_interval": -1}, InvalidArgument, "flush_interval.*-1"),
    "text flush_interval": (
        "memory://",
        {"flush_interval": ""},
        InvalidArgumentType,
        "flush_interval.*''",
    ),
    "reaper_interval": ("memory://", {"reaper_interval": 0}, InvalidArgument, "reaper_interval.*0"),
    "scheduler_interval": (
        "memory://",
        {"scheduler_interval": float("inf")},
        InvalidArgument,
        "scheduler_interval.*inf",
    ),
    "heartbeat_interval": (
        "memory://",
        {"heartbeat_interval": 0},
        InvalidArgument,
        "heartbeat_interval.*0",
    ),
}


@pytest.mark.parametrize("case", BAD_OPENINGS.values(), ids=BAD_OPENINGS)
async def test_opening(case: tuple[Any, dict[str, Any], type[TaqubaError], str]) -> None:
    url, options, kind, message = case
    with pytest.raises(kind, match=message) as error:
        await Queue.open(url, **options)
    assert error.value.permanent


async def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="lease_duration"):
        await Queue.open("memory://", lease_duration=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="max_retries"):
        QueueConfig(max_retries=5)  # type: ignore[call-arg]


async def test_a_store_of_another_layout(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    await queue.enqueue("q", b"")
    stamp = Transaction()
    stamp.put(keys.META, encode_meta(0, "s").replace(bytes([keys.FORMAT_VERSION]), b"\x63", 1))
    await queue._owner.committer.submit(stamp, durable=True)
    await queue.close()
    with pytest.raises(IncompatibleStore, match=f"{url} has layout 99.*reads layout 1"):
        await open_queue(url)


async def test_a_database_of_something_else(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    await queue.kv_put("k", b"v")
    unstamp = Transaction()
    unstamp.delete(keys.META)
    await queue._owner.committer.submit(unstamp, durable=True)
    await queue.close()
    with pytest.raises(IncompatibleStore, match=f"{url} holds a SlateDB database that taquba did"):
        await open_queue(url)


async def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file/store.*[Nn]ot a directory") as error:
        await Queue.open(tmp_path / "file" / "store")
    assert error.value.permanent


OPEN_WITHOUT_PRIVILEGES = textwrap.dedent(
    """
    import asyncio, os, sys
    from taquba import Queue, StoreError

    async def main():
        # Whatever Python imports late, it imports before the user changes.
        async with Queue.open("memory://"):
            pass
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        try:
            await Queue.open(sys.argv[1])
        except StoreError as error:
            print(error.permanent, error)

    asyncio.run(main())
    """
)


@pytest.mark.parametrize("path", ["locked", "locked/inner"])
def test_a_folder_without_permission(path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "locked").mkdir(mode=0o500)
        ran = subprocess.run(
            [sys.executable, "-c", OPEN_WITHOUT_PRIVILEGES, f"{folder}/{path}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert ran.stdout.startswith("True ")
    assert f"{folder}/{path}" in ran.stdout
    assert "ermission" in ran.stdout


# -- calls from a wrong place -------------------------------------------------------------------


async def test_a_queue_belongs_to_its_thread_and_loop(queue: Queue) -> None:
    async def use() -> None:
        await queue.stats("q")

    with pytest.raises(WrongEventLoop, match="event loop that opened it"):
        await asyncio.to_thread(asyncio.run, use())
    with pytest.raises(WrongEventLoop):
        await asyncio.to_thread(queue.next_job_id)
    await use()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_a_forked_child_cannot_use_the_queue(queue: Queue) -> None:
    child = os.fork()
    if child == 0:
        try:
            queue.next_job_id()
        except ForkedError:
            os._exit(7)
        os._exit(1)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


AFTER_CLOSE: Mapping[str, Call] = {
    **{f"{name} on q": lambda q, c=call: c(q, "q") for name, call in NAMED_CALLS.items()},  # type: ignore[misc]
    "enqueue_batch": lambda q: q.enqueue_batch([]),
    "next_job_id": lambda q: asyncio.sleep(0, q.next_job_id()),
    "lease_expiry": lambda q: q.lease_expiry("x"),
    "cancel": lambda q: q.cancel("x"),
    "wake_scheduled": lambda q: q.wake_scheduled("x"),
    "requeue_dead": lambda q: q.requeue_dead("x"),
    "purge_dead": lambda q: q.purge_dead("x"),
    "wait_for_completion": lambda q: q.wait_for_completion("x", 0),
    "reap_now": lambda q: q.reap_now(),
    "promote_scheduled_now": lambda q: q.promote_scheduled_now(),
    "sweep_now": lambda q: q.sweep_now(),
    "kv_get": lambda q: q.kv_get("k"),
    "kv_put": lambda q: q.kv_put("k", b"v"),
    "kv_delete": lambda q: q.kv_delete("k"),
    "kv_compare_put": lambda q: q.kv_compare_put("k", None, b"v"),
    "kv_compare_delete": lambda q: q.kv_compare_delete("k", b"v"),
    "kv_scan": lambda q: q.kv_scan("k"),
    "list_queues": lambda q: q.list_queues(),
    "get_job": lambda q: q.get_job("x"),
    "attempt_history": lambda q: q.attempt_history("x"),
}


@pytest.mark.parametrize("call", AFTER_CLOSE.values(), ids=AFTER_CLOSE)
async def test_every_call_after_close(open_queue: OpenQueue, call: Call) -> None:
    queue = await open_queue()
    await queue.close()
    with pytest.raises(QueueClosed, match="closed") as error:
        await call(queue)
    assert error.value.permanent


async def test_settling_after_close(open_queue: OpenQueue) -> None:
    queue = await open_queue()
    await queue.enqueue("q", b"")
    claim = await must_claim(queue)
    await queue.close()
    for settle in SETTLEMENTS.values():
        with pytest.raises(QueueClosed):
            await settle(queue, claim)


# -- the errors themselves ----------------------------------------------------------------------


ERRORS: list[tuple[TaqubaError, bool, str]] = [
    (TaqubaError("message"), True, "message"),
    (InvalidArgument("message"), True, "message"),
    (InvalidArgumentType("message"), True, "message"),
    (InvalidJobId("message"), True, "message"),
    (InvalidQueueName("message"), True, "message"),
    (KvValueTooLarge("message"), True, "message"),
    (IncompatibleStore("message"), True, "message"),
    (ClaimLost("job-1", "it was settled"), True, "'job-1' is lost: it was settled"),
    (CancelRequested("job-1"), True, "'job-1' was asked to cancel"),
    (EntryChanged(b"a/b"), False, "b'a/b' is not as kv_expected says"),
    (DuplicateJobId("job-1"), True, "'job-1' already exists"),
    (JobNotFound("job-1"), True, "'job-1'"),
    (InvalidState("job-1", "pending", "dead"), True, "'job-1' is pending.* dead"),
    (StoreError("no answer"), False, "no answer"),
    (StoreError("broken", permanent=True), True, "broken"),
    (StoreFenced(), True, "fenced"),
    (StoreNotInitialized("s3://b/p"), False, "s3://b/p"),
    (InboxNotOpen("s3://b/p"), False, "s3://b/p has no inbox"),
    (ProducerClosed(), True, "closed"),
    (
        StoreOwned("s3://b/p", "web-1", 12, datetime(2026, 1, 2, tzinfo=UTC)),
        False,
        "s3://b/p is open already.*process 12 on web-1, since 2026-01-02 00:00:00 UTC.*take_over",
    ),
    (StoreOwned("s3://b/p"), False, "its owner is an unknown process.*Service"),
    (OwnerUnreachable("s3://b/p"), False, "no owner of s3://b/p"),
    (PayloadMissing("job-1", "job-1.a"), True, "'job-1'.*no object job-1.a"),
    (PayloadDamaged("job-1", "job-1.a", "cut off"), True, "'job-1' is damaged.*job-1.a.*cut off"),
    (ObjectDamaged("a/b", "cut off"), True, "'a/b' is damaged.*cut off"),
    (QueueClosed(), True, "closed"),
    (ForkedError(), True, "fork"),
    (WrongEventLoop(), True, "event loop"),
    (taquba.PermanentFailure("reason"), True, "reason"),
    (taquba.RetryAfter(5, "busy"), False, "busy"),
    (taquba.Snooze(5, "busy"), False, "busy"),
    (taquba.FailWith("error", SettlementEffects(kv_deletes=["k"])), True, "error"),
]


@pytest.mark.parametrize(
    ("error", "permanent", "message"), ERRORS, ids=lambda value: type(value).__name__
)
def test_errors_have_one_root_a_verdict_and_survive_pickling(
    error: TaqubaError, permanent: bool, message: str
) -> None:
    assert error.permanent is permanent
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert copy.permanent is permanent
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    with pytest.raises(type(error), match=message):
        raise copy


def test_every_public_error_is_covered_here() -> None:
    public = {
        value
        for value in (getattr(taquba, name) for name in taquba.__all__)
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert {type(error) for error, _, _ in ERRORS} == public
    assert all(issubclass(error, TaqubaError) for error in public)


def test_errors_fit_pythons_own_kinds() -> None:
    assert issubclass(InvalidArgument, ValueError)
    assert issubclass(InvalidArgumentType, TypeError)
    for kind in (InvalidJobId, InvalidQueueName, KvValueTooLarge):
        assert issubclass(kind, InvalidArgument)
