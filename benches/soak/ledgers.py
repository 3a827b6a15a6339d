"""Which calls had their effect, told by the entry that each of them wrote along with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from benches.soak.history import Call, Life


@dataclass
class Outcomes:
    """What came of the calls whose answer nobody got.

    Attributes:
        landed: Id of each such call, and whether it had its effect.
        violations: Entries that say something else than what was acknowledged.
    """

    landed: dict[str, bool] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def had_effect(self, call: Call) -> bool:
        """Whether a call that writes the ledger had its effect."""
        return writes_ledger(call) or self.landed.get(call.id, False)


def writes_ledger(call: Call) -> bool:
    """Whether what an acknowledged call returned means that its effects were applied."""
    if not call.ok:
        return False
    if call.name == "enqueue":
        # The first job of a call carries the entry; it is dropped where a dedup key is held.
        return bool(call.result[0][1])
    if call.name == "nack":
        return bool(call.result == "dead")
    if call.name == "cancel":
        return bool(call.result == "removed")
    return call.name in ("ack", "dead_letter")


CARRIERS = frozenset({"enqueue", "ack", "nack", "dead_letter", "cancel"})


def follow_ledgers(lives: Iterable[Life], final: Mapping[str, str]) -> Outcomes:
    """Follow the entry of each actor from call to call, to what the store holds in the end.

    An actor makes one call at a time, and reads its entry after a call of unknown outcome, so at
    each reading there is one value that the entry must have, or two.

    Args:
        lives: All owners, in the order in which they were started.
        final: The entry of each actor in the end.
    """
    outcomes = Outcomes()
    last: dict[str, str | None] = {}
    in_doubt: dict[str, Call] = {}

    def read(actor: str, value: str | None, where: str) -> None:
        doubt = in_doubt.pop(actor, None)
        expected = last.get(actor)
        if doubt is not None:
            outcomes.landed[doubt.id] = value == doubt.id
        if value != expected and (doubt is None or value != doubt.id):
            outcomes.violations.append(
                f"effects: {where} finds {value} as the last effect of {actor}; "
                f"acknowledged was {expected}"
            )
        last[actor] = value

    for life in lives:
        for call in life.calls:
            if call.name == "read" and call.ok:
                read(call.actor, call.result, call.id)
            elif call.name in CARRIERS:
                if call.actor in in_doubt:
                    raise ValueError(f"{call.id} was made while its actor was in doubt")
                if writes_ledger(call):
                    last[call.actor] = call.id
                elif call.unknown:
                    in_doubt[call.actor] = call
    for actor in {*last, *in_doubt, *final}:
        read(actor, final.get(actor), "the end")
    return outcomes
