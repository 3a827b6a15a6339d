"""Errors whose own methods raise, or lie."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from taquba import FailWith, PermanentFailure, RetryAfter, Snooze, TaqubaError


def _raises(*_: Any) -> Any:
    raise ValueError("not told")


def _ends(*_: Any) -> Any:
    raise KeyboardInterrupt("not told")


class _Untold(type):
    __name__ = property(_raises)  # type: ignore[assignment]
    __eq__ = _raises
    __hash__ = _raises
    __instancecheck__ = _raises
    __subclasscheck__ = _raises


def _odd(
    name: str, base: type[BaseException] = Exception, **members: Any
) -> Callable[[], BaseException]:
    # Libraries look at all exception classes that there are when they are imported, so that these
    # are made where they are raised.
    return lambda: type(name, (base,), {"__init__": lambda self: None, **members})()


ODD: dict[str, Callable[[], BaseException]] = {
    "NoClass": _odd("NoClass", __class__=property(_raises)),
    "NoText": _odd("NoText", __str__=_raises, __repr__=_raises),
    "NoString": _odd("NoString", __str__=lambda self: 5),
    "NoNotes": _odd("NoNotes", __notes__=property(_raises)),
    "NoCause": _odd("NoCause", __cause__=property(_raises), __context__=property(_raises)),
    "NoTrace": _odd("NoTrace", __traceback__=property(_ends)),
    "NoArgs": _odd("NoArgs", args=property(_raises)),
    "NotPacked": _odd("NotPacked", __reduce__=_raises, __reduce_ex__=_raises),
    "NothingAtAll": _odd("NothingAtAll", __getattribute__=_ends),
    "NothingAtAllBase": _odd("NothingAtAllBase", BaseException, __getattribute__=_ends),
    "Fixed": _odd("Fixed", __setattr__=_raises, add_note=_raises, with_traceback=_raises),
    "NotEqual": _odd("NotEqual", __eq__=_raises, __hash__=_raises, __bool__=_raises),
    "Untold": lambda: _Untold("Untold", (Exception,), {})(),
    "SaysCancelled": _odd("SaysCancelled", __class__=asyncio.CancelledError),
    "SaysPermanent": _odd("SaysPermanent", __class__=PermanentFailure),
    "SaysFailWith": _odd("SaysFailWith", __class__=FailWith),
    "SaysSnooze": _odd("SaysSnooze", __class__=Snooze),
    "SaysExit": _odd("SaysExit", __class__=SystemExit),
    "UnmadePermanent": _odd("UnmadePermanent", PermanentFailure),
    "UnmadeRetry": _odd("UnmadeRetry", RetryAfter),
    "UnmadeFailWith": _odd("UnmadeFailWith", FailWith),
    "NoVerdict": _odd("NoVerdict", TaqubaError, permanent=property(_raises), again=_raises),
}
