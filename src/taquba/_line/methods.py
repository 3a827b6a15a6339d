"""The methods that other processes call on the owner."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Final

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


@cache
def signature_of(name: str) -> inspect.Signature:
    """What a method of the handle takes."""
    return inspect.signature(getattr(Store, name))
