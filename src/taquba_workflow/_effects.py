"""Effects that a step or a terminal hook stages, applied with its settlement."""

from __future__ import annotations

from typing import Final, cast

from taquba import EnqueueRequest, InvalidArgument, KvKey, SettlementEffects
from taquba.extending.checks import instance
from taquba_workflow import _values
from taquba_workflow._errors import EffectsSealed

_NOTHING: Final = SettlementEffects()


class StagedEffects:
    """Jobs and caller-owned entries that are applied in the commit of a settlement, or not at all.

    A later call for the same key replaces an earlier one; a `str` key and its UTF-8 `bytes` are the
    same. Effects that are staged after the step or the hook has ended would be lost: they are
    refused with `EffectsSealed`.
    """

    def __init__(self) -> None:
        self._enqueues: list[EnqueueRequest] = []
        self._entries: dict[bytes, bytes | None] = {}
        self._of_jobs: dict[bytes, bytes] = {}
        """Entries of the staged jobs."""
        self._sealed_by: str | None = None

    def enqueue(self, request: EnqueueRequest) -> None:
        """Enqueue a job; only this job is skipped if its dedup key is held when the commit is made.

        Raises:
            EffectsSealed: The step or the hook has ended.
            InvalidArgument: An entry of the job is already staged, with another value.
        """
        instance(request, EnqueueRequest, "request")
        _values.not_reserved(request)
        self._check_open("enqueue()")
        # The request has turned its keys into bytes.
        brought = cast("dict[bytes, bytes]", request.kv_writes or {})
        for key, value in brought.items():
            if self._entries.get(key, value) != value:
                raise _staged_twice(key)
        self._of_jobs |= brought
        self._enqueues.append(request)

    def kv_put(self, key: KvKey, value: bytes) -> None:
        """Write a caller-owned entry of at most `taquba.MAX_KV_VALUE_SIZE` bytes.

        Raises:
            EffectsSealed: The step or the hook has ended.
            InvalidArgument: A staged job has another value for the key.
        """
        _values.entry_key(key)
        # Refused now, by taquba's own rules, rather than when the step is over.
        (name,) = SettlementEffects(kv_writes={key: value}).kv_writes
        self._stage(cast("bytes", name), value, "kv_put()")

    def kv_delete(self, key: KvKey) -> None:
        """Delete a caller-owned entry.

        Raises:
            EffectsSealed: The step or the hook has ended.
            InvalidArgument: A staged job has a value for the key.
        """
        _values.entry_key(key)
        (name,) = SettlementEffects(kv_deletes=[key]).kv_deletes
        self._stage(cast("bytes", name), None, "kv_delete()")

    def settlement(self) -> SettlementEffects:
        """Internal: the effects staged so far."""
        if not (self._enqueues or self._entries):
            return _NOTHING
        return SettlementEffects(
            enqueues=self._enqueues,
            kv_writes={k: v for k, v in self._entries.items() if v is not None},
            kv_deletes=[k for k, v in self._entries.items() if v is None],
        )

    def seal(self, why: str) -> None:
        """Internal: refuse effects from now on."""
        self._sealed_by = why

    def _stage(self, key: bytes, value: bytes | None, call: str) -> None:
        self._check_open(call)
        if key in self._of_jobs and self._of_jobs[key] != value:
            raise _staged_twice(key)
        self._entries[key] = value

    def _check_open(self, call: str) -> None:
        if self._sealed_by is not None:
            raise EffectsSealed(f"effects.{call}", self._sealed_by)


def _staged_twice(key: bytes) -> InvalidArgument:
    return InvalidArgument(
        f"the key {key!r} is in the kv_writes of a staged job, and is staged separately with "
        "another value: leave it out of one of them"
    )


class StepEffects(StagedEffects):
    """Effects of a step; applied when it continues, succeeds or fails its run by its outcome.

    They are discarded if the run ends as cancelled, and if the attempt ends in an exception.
    """


class TerminalEffects(StagedEffects):
    """Effects of a terminal hook; applied when it returns, discarded when it raises."""
