"""A call of every public method of `Queue`, made by introspection so that none is forgotten."""

from __future__ import annotations

import inspect
from typing import Any

from taquba import Claim, EnqueueRequest, Queue


def public_methods() -> list[str]:
    return sorted(
        name
        for name, _ in inspect.getmembers(Queue, inspect.isroutine)
        if not name.startswith("_") and name not in ("open", "close")
    )


def arguments(claim: Claim) -> dict[str, object]:
    """A usable value for every parameter without a default, by its name."""
    return {
        "queue": "q",
        "queues": "q",
        "payload": b"x",
        "requests": [EnqueueRequest("q", b"x")],
        "max_jobs": 1,
        "timeout": 60,
        "claim": claim,
        "error": "no luck",
        "reason": "hopeless",
        "extension": 10,
        "job_id": claim.id,
        "key": "key",
        "value": b"x",
        "expected": b"x",
        "prefix": "",
        "status": "pending",
    }


def call(queue: Queue, method: str, claim: Claim) -> Any:
    """Call a public method with usable arguments; a coroutine is returned as it is."""
    known = arguments(claim)
    positional: list[object] = []
    named: dict[str, object] = {}
    for name, parameter in inspect.signature(getattr(queue, method)).parameters.items():
        optional = parameter.default is not inspect.Parameter.empty
        if optional or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        assert name in known, f"{method} has a parameter {name!r}: give it a value here"
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            named[name] = known[name]
        else:
            positional.append(known[name])
    return getattr(queue, method)(*positional, **named)


async def result(queue: Queue, method: str, claim: Claim) -> object:
    """Call a public method, and await it where it has to be."""
    answer = call(queue, method, claim)
    return await answer if inspect.isawaitable(answer) else answer
