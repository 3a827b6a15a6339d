"""What processes that work on an owner's jobs say to it, and ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from taquba._line import methods
from taquba._line.connection import Connection, Refused
from taquba._line.frames import BrokenFrame
from taquba._line.joining import MemberInfo, dump_adopted, load_named
from taquba._line.tokens import NotTokens, dump_tokens, load_tokens
from taquba._line.values import Unreadable, dump_result, load_arguments
from taquba._model import validate
from taquba._model.errors import (
    PayloadDamaged,
    PayloadMissing,
    StoreError,
    TaqubaError,
)
from taquba._queue import claims, key_values, loops, settling
from taquba._queue.claims import OwnedClaim
from taquba._queue.holders import Holders
from taquba._queue.owner import Owner
from taquba._queue.payload_reads import give_back_unread

METHODS: Final = frozenset(
    (
        methods.JOIN,
        methods.DONE,
        methods.END,
        methods.RELEASE,
        methods.LOST,
        methods.BYE,
        methods.BRING_IN,
    )
)


class MemberCalls:
    """Carries out what working processes ask for.

    Args:
        owner: The owner of the store.
        holders: The processes that hold claims.
    """

    def __init__(self, owner: Owner, holders: Holders) -> None:
        self._owner = owner
        self._holders = holders

    async def carry_out(
        self, connection: Connection, method: str, arguments: list[object]
    ) -> object:
        """Carry out one of `METHODS`."""
        self._owner.check()
        holder = self._holders.of(connection)
        holder.hear()
        try:
            match method, arguments:
                case methods.JOIN, [about, named]:
                    adopted = await holder.join(MemberInfo.load(about), load_named(named))
                    return dump_adopted(adopted)
                case methods.DONE, [tokens]:
                    return dump_tokens(await holder.done(load_tokens(tokens)))
                case methods.END, [int() as token, str() as job_id, str() as how, bytes() as data]:
                    claim = holder.claim(token, job_id)
                    return dump_result(await self._end(claim, how, load_arguments(data)))
                case methods.RELEASE, [str() as why, tokens]:
                    landed = holder.release(load_tokens(tokens), why[:_LONGEST_REASON])
                case methods.LOST, [int() as token, str() as why]:
                    landed = holder.lose_process(token, why[:_LONGEST_REASON])
                case methods.BRING_IN, [str() as queue]:
                    state = self._owner.queue(validate.queue_name(queue))
                    await loops.bring_in(self._owner)
                    return state.empty
                case methods.BYE, []:
                    await holder.bye()
                    return None
                case _:
                    raise Refused("UnknownCall", f"{method} with {len(arguments)} arguments")
        except (NotTokens, Unreadable) as error:
            raise Refused("Unreadable", f"{method}: {error}") from None
        if landed is not None:
            await landed
        return None

    def hear(self, connection: Connection, kind: str, fields: list[object]) -> None:
        """Take what was said without waiting for a reply."""
        if self._owner.failure is not None:
            return
        holder = self._holders.of(connection)
        holder.hear()
        try:
            match kind, fields:
                case methods.WORK, [
                    int() as loop,
                    str() as queue,
                    int() as lease_ms,
                    int() as places,
                ]:
                    validate.queue_name(queue)
                    validate.integer(lease_ms, "lease_ms", 1, validate.MAX_DURATION_MS)
                    validate.integer(places, "places", 0, _MOST_PLACES)
                    holder.work(loop, queue, lease_ms, places)
                case methods.FREE, [int() as loop, int() as places]:
                    holder.free(loop, places)
                case methods.ALIVE, [int() as token]:
                    holder.has_read(token)
                case methods.LEAVE, [int() as loop]:
                    holder.leave(loop)
                case methods.RENEW, [int() as lease_ms, tokens]:
                    validate.integer(lease_ms, "lease_ms", 1, validate.MAX_DURATION_MS)
                    holder.keep_alive(load_tokens(tokens), lease_ms)
                case _:
                    # Of a later version.
                    pass
        except (NotTokens, TaqubaError) as error:
            raise BrokenFrame(f"{kind}: {error!s:.200}") from None

    async def _end(self, claim: OwnedClaim, how: str, known: Mapping[str, Any]) -> object:
        owner = self._owner
        match how, known:
            case "nack", {"error": error, "effects": effects, "delay_ms": delay_ms}:
                if delay_ms is not None:
                    validate.integer(delay_ms, "delay_ms", 0, validate.MAX_DURATION_MS)
                return (await settling.nack(owner, claim, error, effects, delay_ms)).retried
            case "snooze", {"reason": reason, "delay_ms": delay_ms}:
                validate.integer(delay_ms, "delay_ms", 1, validate.MAX_DURATION_MS)
                await settling.snooze(owner, claim, reason, delay_ms)
            case "kv_put", {"key": str() | bytes() as key, "value": bytes() as value}:
                claims.held_lease(owner, claim)
                await key_values.write(owner, key, value)
            case "unread", {"kind": str() as kind, "why": str() as why}:
                await give_back_unread(owner, claim, _problem(claim, kind, why))
            case _:
                raise Refused("UnknownCall", f"{how!r:.50}")
        return None


_LONGEST_REASON: Final = 1024
_MOST_PLACES: Final = 1_000_000


def _problem(claim: OwnedClaim, kind: str, why: str) -> TaqubaError:
    """Why a payload was not read."""
    ref = claim.payload_ref or ""
    if kind == PayloadMissing.__name__:
        return PayloadMissing(claim.id, ref)
    if kind == PayloadDamaged.__name__:
        return PayloadDamaged(claim.id, ref, why)
    return StoreError(why)
