"""The history of a function: its calls, by their place in it.

Every call of a function's context has a place: the numbers of the calls, and of the branches of
`gather`, that lead to it. An entry records the call and its result. A replay takes each entry once;
if the call is a different one, or an entry is left over, the function has changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final, NamedTuple

import msgpack

from taquba import ReadableStore, Store, TaqubaError
from taquba.extending import UNREADABLE, WordEnum
from taquba.extending import describe as describe_error
from taquba.extending.times import from_ms
from taquba.extending.typed import unpack as unpack_value
from taquba.extending.walks import pages
from taquba_workflow import _values
from taquba_workflow._errors import NonDeterminism
from taquba_workflow._keys import keys_of
from taquba_workflow._memo import unpack

_FORMAT: Final = 1
_PAGE: Final = 2000
_DIGITS: Final = 8

Place = tuple[int, ...]
"""The place of a call. The first number distinguishes the function from its compensations."""

BODY: Final[Place] = (0,)
COMPENSATIONS: Final[Place] = (1,)
PATCHES: Final[Place] = (2,)
"""Decided at a place without being a call there: the place of the next call follows."""


class CallKind(WordEnum):
    """The kind of a call."""

    STEP = "step"
    SLEEP = "sleep"
    SIGNAL = "signal"
    CHILD = "child"
    PATCH = "patch"
    UNKNOWN = "unknown"
    """Its record cannot be read; `CallRecord.error` says why."""


class CallState(WordEnum):
    """The state of a call."""

    WAITING = "waiting"
    """It waits for `CallRecord.due`, or for the signal or child that it names."""
    DONE = "done"
    FAILED = "failed"


class UnreadableHistory(TaqubaError):
    """A record of a run's history cannot be read, so the state of its function is unknown."""

    permanent = False

    def __init__(self, key: str, why: BaseException) -> None:
        super().__init__(key, why)
        self.key = key
        self.why = why

    def __str__(self) -> str:
        return (
            f"the entry {self.key!r} of its history cannot be read ({describe_error(self.why)}): "
            "restore it, or delete it to repeat that call, if no later one is recorded"
        )


class Error(NamedTuple):
    """Why a call failed."""

    kind: str
    message: str


class Entry(NamedTuple):
    """A call in the store. Times are ms since the Unix epoch."""

    kind: CallKind
    name: str
    digest: bytes
    """Of its arguments."""
    state: CallState
    at: int
    """When this was written, or the call ended."""
    turn: int
    attempt: int
    """The turn, and the attempt at it, that wrote this."""
    failures: int = 0
    """Failed attempts of a step."""
    due: int | None = None
    """When it continues without an event."""
    value: bytes | None = None
    """The result, as packed by `Values.pack`."""
    error: Error | None = None

    def is_call(self, kind: CallKind, name: str, digest: bytes) -> bool:
        return (self.kind, self.name, self.digest) == (kind, name, digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """An entry of a run's history.

    Attributes:
        call: Where the function made the call: its number from 0, and after each `gather` the
            branch and the number there, as in ``3.1.0``. Compensations begin with ``failure.``.
        kind: ``step``, ``sleep``, ``signal``, ``child`` or ``patch``; ``unknown`` for a record that
            cannot be read.
        name: Name of the step, the child's workflow or the patch; key of the signal.
        child_run_id: Id of a child's run.
        state: ``done``, ``failed``, or ``waiting``.
        at: When it ended; for a waiting call, when the wait was recorded.
        due: When a waiting call continues without an event; None if it does not.
        failures: Failed attempts of a step.
        result: Its result, as plain data; a signal as bytes.
        error: Why it failed.
    """

    call: str
    kind: CallKind
    name: str
    child_run_id: str | None
    state: CallState
    at: datetime
    due: datetime | None
    failures: int
    result: object
    error: str | None


def encode_entry(entry: Entry) -> bytes:
    # Packs a StrEnum as the str it is.
    packed: bytes = msgpack.packb((_FORMAT, *entry))
    return packed


def decode_entry(row: bytes) -> Entry:
    _, kind, name, digest, state, *fields, error = msgpack.unpackb(row)
    known = None if error is None else Error(*error)
    at, turn, attempt, failures, due, value = fields
    return Entry(
        CallKind(kind),
        name,
        digest,
        CallState(state),
        at,
        turn,
        attempt,
        failures,
        due,
        value,
        known,
    )


def place_key(place: Place) -> str:
    """The part of an entry's key that is its place; sorts like the place."""
    return ".".join(f"{number:0{_DIGITS}d}" for number in place)


def patch_key(place: Place, name: str) -> str:
    """The part of a patch's key that says where it was decided, and its name."""
    return f"{place_key(PATCHES + place)}/{name}"


def _read_place(text: str) -> Place:
    return tuple(map(int, text.partition("/")[0].split(".")))


def describe(kind: CallKind, name: str, digest: bytes) -> str:
    """A call as text for people."""
    match kind:
        case CallKind.STEP:
            return f"step {name!r} (arguments {digest.hex()[:8]})"
        case CallKind.SLEEP:
            return "sleep"
        case CallKind.SIGNAL:
            return f"wait_signal({name!r})"
        case CallKind.CHILD:
            return f"child {name!r} (arguments {digest.hex()[:8]})"
        case CallKind.PATCH:
            return f"patched({name!r})"
        case CallKind.UNKNOWN:
            return "a call that cannot be read"


class History:
    """The entries of a run when its turn began, and which of them the replay has reached."""

    def __init__(
        self, run_id: str, entries: dict[Place, Entry], patches: set[tuple[Place, str]]
    ) -> None:
        self._run_id = run_id
        self._entries = entries
        self._patches = patches
        self._left = set(entries)
        self._last: dict[Place, int] = {}
        """By branch, the highest number among its calls that have entries, or have some inside."""
        for place in entries:
            for depth in range(1, len(place)):
                branch, number = place[:depth], place[depth]
                if self._last.get(branch, -1) < number:
                    self._last[branch] = number

    def progress(self, turn: int) -> int:
        """The last attempt at a turn that wrote something; 0 if none did."""
        written = (entry.attempt for entry in self._entries.values() if entry.turn == turn)
        return max(written, default=0)

    def take(self, place: Place, kind: CallKind, name: str, digest: bytes) -> Entry | None:
        """The entry of a call; None if there is none yet.

        Raises:
            NonDeterminism: A different call was made there.
        """
        entry = self._entries.get(place)
        if entry is None:
            if self.goes_on(place[:-1], place[-1]):
                raise self._changed(place, describe(kind, name, digest))
            return None
        if not entry.is_call(kind, name, digest):
            raise self._changed(place, describe(kind, name, digest))
        self._left.discard(place)
        return entry

    def take_gather(self, place: Place) -> None:
        """A call of `gather`, which has entries inside only."""
        if place in self._entries:
            raise self._changed(place, "gather")

    def goes_on(self, branch: Place, number: int) -> bool:
        """Whether there are entries of calls of a branch from this number on."""
        return self._last.get(branch, -1) >= number

    def is_patched(self, branch: Place, number: int, name: str) -> bool | None:
        """What was decided on a patch before the next call of a branch; None if nothing was."""
        if ((*branch, number), name) in self._patches:
            return True
        return False if self.goes_on(branch, number) else None

    def check_complete(self, root: Place) -> None:
        """Raise `NonDeterminism` if the replay did not reach all entries of a root."""
        left = [place for place in self._left if place[: len(root)] == root]
        if left:
            raise self._changed(min(left), "none")

    def _changed(self, place: Place, came: str) -> NonDeterminism:
        entry = self._entries.get(place)
        expected = "a call without an entry"
        if entry is not None:
            expected = describe(entry.kind, entry.name, entry.digest)
        elif place in self._last:
            expected = "gather"
        return NonDeterminism(self._run_id, call_name(place), expected, came)


def call_name(place: Place) -> str:
    """A place as text for people."""
    root, *numbers = place
    shown = ".".join(map(str, numbers))
    return f"failure.{shown}" if (root,) == COMPENSATIONS else shown


def child_run_id(run_id: str, place: Place) -> str:
    """Id of the child that a call starts: always the same, and unique to the call."""
    call = call_name(place)
    return f"{run_id[:95]}-{sha256(f'{run_id}/{call}'.encode()).hexdigest()[:32]}"


async def load_history(store: Store, queue_name: str, run_id: str) -> History:
    """Read the history of a run, once."""
    entries: dict[Place, Entry] = {}
    patches: set[tuple[Place, str]] = set()
    async for text, row in _rows(store, queue_name, run_id):
        try:
            place, entry = _read_place(text), decode_entry(row)
        except UNREADABLE as error:
            raise UnreadableHistory(keys_of(queue_name).history(run_id) + text, error) from error
        if entry.kind is CallKind.PATCH:
            patches.add((place[len(PATCHES) :], entry.name))
        else:
            entries[place] = entry
    return History(run_id, entries, patches)


async def read_history(
    source: ReadableStore, run_id: str, *, queue_name: str = "workflow"
) -> list[CallRecord]:
    """Return the calls of a run's function so far, in the order of its code; see `CallRecord`.

    Args:
        source: A handle on the store, or a `taquba.QueueReader`.
        run_id: The run.
        queue_name: The runtime's queue.

    Returns:
        Its calls; empty if it has made none, and once retention has removed it.
    """
    _values.run_id(run_id)
    found: list[CallRecord] = []
    async for text, row in _rows(source, queue_name, run_id):
        try:
            place, entry = _read_place(text), decode_entry(row)
            if entry.kind is CallKind.PATCH:
                place = place[len(PATCHES) :]
            found.append(await _record(source, run_id, place, entry))
        except UNREADABLE as error:
            key = keys_of(queue_name).history(run_id) + text
            found.append(_unreadable(text, UnreadableHistory(key, error)))
    return found


def _unreadable(text: str, problem: UnreadableHistory) -> CallRecord:
    try:
        call = call_name(_read_place(text))
    except ValueError:
        call = text
    return CallRecord(
        call=call,
        kind=CallKind.UNKNOWN,
        name="",
        child_run_id=None,
        state=CallState.FAILED,
        at=from_ms(0),
        due=None,
        failures=0,
        result=None,
        error=str(problem),
    )


async def _perhaps_not() -> bool:
    """Reading a run that may be removed meanwhile does not repeat."""
    return False


async def _record(source: ReadableStore, run_id: str, place: Place, entry: Entry) -> CallRecord:
    value = None if entry.value is None else await unpack(source, entry.value, _perhaps_not)
    result: object = value
    if value is not None and entry.kind is not CallKind.SIGNAL:
        result = unpack_value(value)
    return CallRecord(
        call=call_name(place),
        kind=entry.kind,
        name=entry.name,
        child_run_id=child_run_id(run_id, place) if entry.kind is CallKind.CHILD else None,
        state=entry.state,
        at=from_ms(entry.at),
        due=None if entry.due is None else from_ms(entry.due),
        failures=entry.failures,
        result=result,
        error=None if entry.error is None else f"{entry.error.kind}: {entry.error.message}",
    )


async def _rows(
    source: ReadableStore, queue_name: str, run_id: str
) -> AsyncIterator[tuple[str, bytes]]:
    prefix = keys_of(queue_name).history(run_id)
    async for page in pages(lambda cursor: source.kv_scan(prefix, cursor, _PAGE)):
        for key, row in page.entries:
            yield key.removeprefix(prefix), row
