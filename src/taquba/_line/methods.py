"""The methods that other processes call on the owner."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple

from taquba._interface.store import Store

BATCH: Final = "batch"
"""``(name, batch)``: take a batch; returns when it is durable."""

STORE: Final = "store"
"""``(name, arguments)``: carry out a method of the handle; its result, as `values` makes it."""

ABOUT: Final = "about"
"""``()``: the id of the store."""

JOIN: Final = "join"
"""``(about, held)``: a process takes part; says who it is and what it holds, and is told which of
that is still its own. The first call of its connection."""

BYE: Final = "bye"
"""``()``: the process takes part no longer, and gives back what it holds."""

DONE: Final = "done"
"""``(tokens)``: the jobs of claims are done; returns the tokens of those that were lost."""

END: Final = "end"
"""``(token, job_id, how, arguments)``: an attempt has ended otherwise."""

BRING_IN: Final = "bring_in"
"""``(queue)``: make pending what may run; returns whether nothing of a queue is."""

RELEASE: Final = "release"
"""``(why, tokens)``: give claims back."""

LOST: Final = "lost"
"""``(token, why)``: the child process that ran a job has ended."""

WORK: Final = "work"
"""Said of a worker loop: ``(loop, queue, lease_ms, places)``: it takes jobs, and runs so many at a
time."""

FREE: Final = "free"
"""Said of a worker loop: ``(loop, places)``: it has room for as many more."""

LEAVE: Final = "leave"
"""Said of a worker loop: ``(loop,)``: it takes no more jobs."""

RENEW: Final = "renew"
"""Said of claims: ``(lease_ms, tokens)``: they are worked on."""

ALIVE: Final = "alive"
"""Said every `ALIVE_SECONDS` by a process that takes jobs: ``()``; and when it has read some that
it was sent: ``(token)`` of the last of them."""

ALIVE_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 4.0
"""A process that has said nothing for so long is handed no more jobs until it is heard again."""

JOBS: Final = "jobs"
"""Told to a worker loop: ``(loop, jobs)``, as `tokens.dump_jobs` makes them."""

CANCELLED: Final = "cancelled"
"""Told of a claim, by its token: its job was asked to cancel."""

OVER: Final = "over"
"""Told of a claim, by its token: it no longer holds its job."""

GONE: Final = "gone"
"""The kind of failure of a former owner: there may be another one."""

CLOSED: Final = "closed"
"""The kind of failure of an owner that closes: it has not carried out the call."""


class Parameters(NamedTuple):
    """What a method of the handle takes.

    Attributes:
        names: Of all its parameters, in their order; that of a variable number is left out.
        required: Of those without a default.
        more: The name of that of a variable number, if it has one.
    """

    names: tuple[str, ...]
    required: frozenset[str]
    more: str | None

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
        """The arguments of a call by name; raises `TypeError` for those of no call."""
        if self.more is not None:
            bound: dict[str, object] = {self.more: tuple(args)}
        else:
            bound = dict(zip(self.names, args, strict=False))
            if len(args) > len(self.names):
                raise TypeError(f"{len(args)} arguments")
        for name, value in kwargs.items():
            if name in bound or name not in self.names:
                raise TypeError(f"the argument {name!r}")
            bound[name] = value
        if not self.required <= bound.keys():
            raise TypeError(f"no argument {min(self.required - bound.keys())!r}")
        return bound


@cache
def parameters_of(name: str) -> Parameters:
    """What a method of the handle takes."""
    _, *parameters = inspect.signature(getattr(Store, name)).parameters.values()
    named = [one for one in parameters if one.kind is not one.VAR_POSITIONAL]
    return Parameters(
        tuple(one.name for one in named),
        frozenset(one.name for one in named if one.default is one.empty),
        next((one.name for one in parameters if one.kind is one.VAR_POSITIONAL), None),
    )
