"""Entries of a history on their way to the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from taquba import Clock, KvKey, LeaseHandle
from taquba.extending import put_while_held
from taquba_workflow._functions.history import (
    CallKind,
    CallState,
    Entry,
    Error,
    Place,
    encode_entry,
    patch_key,
    place_key,
)
from taquba_workflow._keys import keys_of
from taquba_workflow._memo import Values
from taquba_workflow._steps import StepJob


class Recorder:
    """Writes what a turn does into the history of its run.

    Args:
        values: Where large results go.
        step: The turn.
        lease: The hold on its job.
        clock: Where time comes from.
    """

    def __init__(self, values: Values, step: StepJob, lease: LeaseHandle, clock: Clock) -> None:
        self._values = values
        self._step = step
        self._lease = lease
        self._clock = clock
        self._prefix = keys_of(step.queue).history(step.run_id)
        self._patches: dict[KvKey, bytes] = {}
        """Patches that are not written yet: they land before anything that depends on them."""

    @property
    def turn(self) -> int:
        """Number of the turn that writes."""
        return self._step.step_number

    def entry(
        self,
        kind: CallKind,
        name: str,
        digest: bytes,
        state: CallState,
        *,
        failures: int = 0,
        due: int | None = None,
        value: bytes | None = None,
        error: Error | None = None,
    ) -> Entry:
        """An entry of now and of this turn."""
        return Entry(
            kind,
            name,
            digest,
            state,
            self._clock.time_ms(),
            self._step.step_number,
            self._step.attempts,
            failures,
            due,
            value,
            error,
        )

    async def pack(self, value: bytes) -> bytes:
        """A value for an entry; a large one is written as an object of its own."""
        return await self._values.pack(self._step.run_id, value)

    async def unpack(
        self, packed: bytes, is_kept: Callable[[], Awaitable[bool]] | None = None
    ) -> bytes | None:
        """A value of this run; with `is_kept`, one of another run, which may be forgotten."""
        return await self._values.unpack(packed, is_kept)

    async def write(self, place: Place, entry: Entry) -> None:
        """Make an entry durable.

        Raises:
            ClaimLost: The turn was given to somebody else, who writes this history now.
        """
        await self.flush()
        await put_while_held(self._lease, self.key(place), encode_entry(entry))

    def key(self, place: Place) -> str:
        return self._prefix + place_key(place)

    def note_patch(self, place: Place, name: str) -> None:
        """A patch is to be written before, or with, whatever comes next."""
        entry = self.entry(CallKind.PATCH, name, b"", CallState.DONE)
        self._patches[self._prefix + patch_key(place, name)] = encode_entry(entry)

    async def flush(self) -> None:
        """Write the patches that were noted."""
        for key, row in list(self._patches.items()):
            await put_while_held(self._lease, key, row)
            self._patches.pop(key, None)

    def unwritten(self) -> dict[KvKey, bytes]:
        """Changes that must be in the commit of the turn."""
        return dict(self._patches)
