"""What a step or a terminal hook stages, to be applied with its settlement."""

from __future__ import annotations

from typing import Final

from taquba import EnqueueRequest, KvKey, SettlementEffects
from taquba_workflow import _values

_NOTHING: Final = SettlementEffects()


class StagedEffects:
    """Jobs and caller-owned entries that land in the same commit as a settlement, or not at all.

    A later call for the same key replaces an earlier one.
    """

    def __init__(self) -> None:
        self._enqueues: list[EnqueueRequest] = []
        self._entries: dict[KvKey, bytes | None] = {}

    def enqueue(self, request: EnqueueRequest) -> None:
        """Enqueue a job; skipped, alone, if its dedup key is held when the commit is made."""
        _values.instance(request, EnqueueRequest, "request")
        _values.not_reserved(request)
        self._enqueues.append(request)

    def kv_put(self, key: KvKey, value: bytes) -> None:
        """Write a caller-owned entry of at most `taquba.MAX_KV_VALUE_SIZE` bytes."""
        _values.entry_key(key)
        # Refused here and now, by taquba's own rules, instead of when the step is over.
        SettlementEffects(kv_writes={key: value})
        self._entries[key] = value

    def kv_delete(self, key: KvKey) -> None:
        """Delete a caller-owned entry."""
        _values.entry_key(key)
        SettlementEffects(kv_deletes=[key])
        self._entries[key] = None

    def settlement(self) -> SettlementEffects:
        """What is staged so far."""
        if not (self._enqueues or self._entries):
            return _NOTHING
        return SettlementEffects(
            enqueues=self._enqueues,
            kv_writes={k: v for k, v in self._entries.items() if v is not None},
            kv_deletes=[k for k, v in self._entries.items() if v is None],
        )


class StepEffects(StagedEffects):
    """What a step stages; applied when it continues, succeeds or fails its run by its outcome.

    Discarded when the run ends as cancelled, and when the attempt ends in an exception.
    """


class TerminalEffects(StagedEffects):
    """What a terminal hook stages; applied when it returns, discarded when it raises."""
