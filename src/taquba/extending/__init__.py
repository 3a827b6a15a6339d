"""For packages built on a queue: decisions that any process may make, and loops that run in each.

Code that reads an entry, decides, and writes says what it has read: `kv_expected` of an enqueue and
of effects. Where that has changed meanwhile, by whichever process, nothing is written, and the code
decides again. `seen_through` keeps a decision from being cut off while it is on its way. Code that
answers from an entry without writing reads it with ``kv_get(..., durable=True)``.

The modules, top to bottom; each uses only those below it:

    typed        a function's arguments and result: checked against its annotations
    _codec       values of one type, to and from MessagePack: values are read as they were written
    checks       checks of arguments, with errors that read like taquba's own
    expiries     retention: records to remove, in the order of time, and their sweep
    parking      a job that this program cannot run waits, unspent, for a program that can
    _background  loops that have exclusive queues, and run for the length of a block
    _deciding    decisions based on an entry: in turns within a process, and seen through
    _functions   the function that a user wrote, below its decorators
    _leash       awaiting code of users so that it can be left behind, whatever it swallows
    _schemas     facts about the values of an annotation, from its pydantic schema
    _wire        values as MessagePack, the same bytes for equal values
    calls        calls of a package, by name, from any process with a handle on the store
    halves       handlers in two halves: around the user's function, and at the settlement
    named        values too large for an entry: objects that an entry names
    times        times as they are stored: milliseconds since the Unix epoch
    walks        walks through all pages of a listing
"""

from __future__ import annotations

from taquba._memory.locks import HeldLocks, KeyLocks
from taquba._model.codec import UNREADABLE
from taquba._model.describing import describe, shown
from taquba._model.ending import contained, ends_program, is_stopped, legible, passes_through
from taquba._model.errors import OutcomeUnknown
from taquba._model.own_tasks import only_it_was_cancelled, was_cancelled
from taquba._model.redaction import redact, without_secrets
from taquba._model.tasks import together, until_one_ends
from taquba._model.words import WordEnum
from taquba._worker.lease_handle import put_while_held
from taquba._worker.outcomes import NotStarted
from taquba._worker.plain import PlainCall, RunTimer
from taquba._worker.pools import ExecutorOrFactory, Pool
from taquba._worker.shutdown import Shutdown
from taquba._worker.sources import made_for, member_id, only_runner
from taquba.extending._background import RunsInBackground
from taquba.extending._deciding import locks_of, seen_through
from taquba.extending._leash import Leash, awaited

__all__ = [
    "UNREADABLE",
    "ExecutorOrFactory",
    "HeldLocks",
    "KeyLocks",
    "Leash",
    "NotStarted",
    "OutcomeUnknown",
    "PlainCall",
    "Pool",
    "RunTimer",
    "RunsInBackground",
    "Shutdown",
    "WordEnum",
    "awaited",
    "contained",
    "describe",
    "ends_program",
    "is_stopped",
    "legible",
    "locks_of",
    "made_for",
    "member_id",
    "only_it_was_cancelled",
    "only_runner",
    "passes_through",
    "put_while_held",
    "redact",
    "seen_through",
    "shown",
    "together",
    "until_one_ends",
    "was_cancelled",
    "without_secrets",
]
