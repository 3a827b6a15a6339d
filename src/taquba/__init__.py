"""taquba: a durable job queue for asyncio whose only state lives in object storage.

The layers, top to bottom; each uses only those below it:

    __main__      ``python -m taquba``
    cli           for packages that add a command to `taquba`
    _cli          the command line, which needs the extra ``taquba[cli]``
    integrations  taquba in web frameworks
    doctor        examines a location for a store
    testing       virtual time, fresh stores, and a pytest plugin
    _service      processes that share a store: one owns it, all of them can ask for everything
    extending     for packages built on a queue
    _worker       worker loops that run handlers
    _queue        the owner: operations, background loops, and the facade `Queue`
    producer      producers alone
    _producer     requests from processes that do not own the store; no part needs the engine
    telemetry     telemetry settings alone
    _telemetry    metrics and traces through OpenTelemetry, imported only where they are on
    _line         calls from the processes of a machine to the owner
    _store        the commit path: transaction, group commit, claim cursors
    _engine       the storage engine: the only package that imports slatedb
    _interface    the operations of every handle on a store
    _memory       ready windows, leases, waiters, locks
    _objects      object storage without the engine: places, clients, payloads, inbox, election
    _rules        transitions: a job's next state, as pure functions
    _model        vocabulary: keys, codec, records, options, clock, errors

Beside them, to be imported by name: `taquba.testing`, `taquba.integrations` for frameworks, and
`taquba.doctor`, which examines a location for a store. Start with `Queue.open`.

Each exported name is imported when it is first used: a process that only produces jobs never loads
the storage engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from taquba._interface.claim import Claim
    from taquba._interface.store import ReadableStore, Store
    from taquba._memory.leases import CancelToken
    from taquba._model.clock import Clock, SystemClock, Timer
    from taquba._model.errors import (
        CancelRequested,
        ClaimLost,
        DuplicateJobId,
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
        QueueClosed,
        StoreError,
        StoreFenced,
        StoreNotInitialized,
        StoreOwned,
        TaqubaError,
        WrongEventLoop,
    )
    from taquba._model.options import (
        PRIORITY_HIGH,
        PRIORITY_LOW,
        PRIORITY_NORMAL,
        EnqueueOptions,
        EnqueueRequest,
        InboxConfig,
        JobOptions,
        ProducerOptions,
        QueueConfig,
        SettlementEffects,
    )
    from taquba._model.records import (
        AttemptOutcome,
        CancelOutcome,
        EnqueueResult,
        InboxStats,
        JobAttempt,
        JobPage,
        JobRecord,
        JobStatus,
        KvEntry,
        KvPage,
        Member,
        NackOutcome,
        OwnerPresence,
        OwnerSigns,
        QueueStats,
        RejectedBatch,
        RunningJob,
        UnreadableRecord,
        WaitOutcome,
        WaitStatus,
        WakeOutcome,
    )
    from taquba._model.validate import MAX_KV_VALUE_SIZE, Duration, KvKey
    from taquba._objects.object_info import ObjectInfo
    from taquba._objects.user_objects import Objects, ReadOnlyObjects
    from taquba._producer.producer import Producer, Receipt
    from taquba._producer.threads import SyncProducer
    from taquba._queue.open_options import OpenOptions, OwnerOptions
    from taquba._queue.queue import Queue
    from taquba._queue.reader import QueueReader
    from taquba._service.running import run_service
    from taquba._service.service import Service
    from taquba._telemetry.settings import Telemetry
    from taquba._worker.handlers import (
        AsyncHandler,
        Handler,
        HandlerResult,
        PlainHandler,
        Processor,
    )
    from taquba._worker.lease_handle import LeaseHandle
    from taquba._worker.outcomes import FailWith, PermanentFailure, RetryAfter, Snooze
    from taquba._worker.worker import WorkerSpec, run_worker
    from taquba._worker.workers import run_workers

__all__ = [
    "MAX_KV_VALUE_SIZE",
    "PRIORITY_HIGH",
    "PRIORITY_LOW",
    "PRIORITY_NORMAL",
    "AsyncHandler",
    "AttemptOutcome",
    "CancelOutcome",
    "CancelRequested",
    "CancelToken",
    "Claim",
    "ClaimLost",
    "Clock",
    "DuplicateJobId",
    "Duration",
    "EnqueueOptions",
    "EnqueueRequest",
    "EnqueueResult",
    "EntryChanged",
    "FailWith",
    "ForkedError",
    "Handler",
    "HandlerResult",
    "InboxConfig",
    "InboxNotOpen",
    "InboxStats",
    "IncompatibleStore",
    "InvalidArgument",
    "InvalidArgumentType",
    "InvalidJobId",
    "InvalidQueueName",
    "InvalidState",
    "JobAttempt",
    "JobNotFound",
    "JobOptions",
    "JobPage",
    "JobRecord",
    "JobStatus",
    "KvEntry",
    "KvKey",
    "KvPage",
    "KvValueTooLarge",
    "LeaseHandle",
    "Member",
    "NackOutcome",
    "ObjectDamaged",
    "ObjectInfo",
    "Objects",
    "OpenOptions",
    "OwnerOptions",
    "OwnerPresence",
    "OwnerSigns",
    "OwnerUnreachable",
    "PayloadDamaged",
    "PayloadMissing",
    "PermanentFailure",
    "PlainHandler",
    "Processor",
    "Producer",
    "ProducerClosed",
    "ProducerOptions",
    "Queue",
    "QueueClosed",
    "QueueConfig",
    "QueueReader",
    "QueueStats",
    "ReadOnlyObjects",
    "ReadableStore",
    "Receipt",
    "RejectedBatch",
    "RetryAfter",
    "RunningJob",
    "Service",
    "SettlementEffects",
    "Snooze",
    "Store",
    "StoreError",
    "StoreFenced",
    "StoreNotInitialized",
    "StoreOwned",
    "SyncProducer",
    "SystemClock",
    "TaqubaError",
    "Telemetry",
    "Timer",
    "UnreadableRecord",
    "WaitOutcome",
    "WaitStatus",
    "WakeOutcome",
    "WorkerSpec",
    "WrongEventLoop",
    "run_service",
    "run_worker",
    "run_workers",
]

_HOMES: Final = (
    "_model.errors",
    "_model.options",
    "_model.records",
    "_model.validate",
    "_model.clock",
    "_producer.producer",
    "_producer.threads",
    "_objects.object_info",
    "_memory.leases",
    "_telemetry.settings",
    "_objects.user_objects",
    "_interface.claim",
    "_interface.store",
    "_queue.open_options",
    "_queue.queue",
    "_queue.reader",
    "_worker.outcomes",
    "_worker.lease_handle",
    "_worker.handlers",
    "_worker.worker",
    "_worker.workers",
    "_service.service",
    "_service.running",
)
"""Where `__getattr__` looks for a name: modules without the storage engine come first."""

if not TYPE_CHECKING:
    # A type checker that sees this takes any name for one that exists.

    def __getattr__(name):
        if name in __all__:
            for home in _HOMES:
                found = getattr(import_module(f"{__name__}.{home}"), name, None)
                if found is not None:
                    globals()[name] = found
                    return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
