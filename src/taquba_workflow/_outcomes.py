"""The results of a step: how its run continues, or how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from taquba import Duration, KvKey
from taquba.extending.checks import duration_ms, instance, text
from taquba_workflow import _values


@dataclass(frozen=True, slots=True)
class Immediate:
    """The next step may start at once."""


@dataclass(frozen=True, slots=True)
class After:
    """The next step starts after a delay, which occupies no worker.

    Attributes:
        delay: Seconds or `timedelta`, from the moment the step has ended.
    """

    delay: Duration

    def __post_init__(self) -> None:
        duration_ms(self.delay, "delay")


@dataclass(frozen=True, slots=True)
class OnSignal:
    """The next step starts when a signal arrives, or after a timeout; waiting occupies no worker.

    Attributes:
        key: The key of the signal, 1 to 1024 UTF-8 bytes. Only one run at a time waits for a key; a
            second one that tries to wait fails.
        timeout: Seconds or `timedelta` after which the next step starts without a signal; None
            waits forever.
    """

    key: str
    timeout: Duration | None = None

    def __post_init__(self) -> None:
        _values.name(self.key, "a signal key")
        if self.timeout is not None:
            duration_ms(self.timeout, "timeout")


Trigger = Immediate | After | OnSignal
"""When the next step starts."""

_IMMEDIATE: Final = Immediate()


@dataclass(frozen=True, slots=True)
class Continue:
    """The run continues with another step.

    Attributes:
        payload: The payload of the next step.
        when: When it starts.
    """

    payload: bytes
    when: Trigger = _IMMEDIATE

    def __post_init__(self) -> None:
        _values.content(self.payload, "payload")
        instance(self.when, (Immediate, After, OnSignal), "when")


@dataclass(frozen=True, slots=True)
class Succeed:
    """The run has succeeded.

    Attributes:
        result: Its result.
    """

    result: bytes = b""

    def __post_init__(self) -> None:
        _values.content(self.result, "result")


@dataclass(frozen=True, slots=True)
class Fail:
    """The run ends as failed; the step's effects are applied.

    Attributes:
        reason: Why.
    """

    reason: str

    def __post_init__(self) -> None:
        text(self.reason, "reason")


@dataclass(frozen=True, slots=True)
class Cancel:
    """The run ends as cancelled; the step's effects are discarded.

    Attributes:
        reason: Why.
    """

    reason: str

    def __post_init__(self) -> None:
        text(self.reason, "reason")


StepOutcome = Continue | Succeed | Fail | Cancel
"""The result of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend:
    """Internal: the turn of a function has ended with all of its branches waiting.

    Attributes:
        until: When the first of its waits ends; None means never.
        at_once: Whether the next turn begins now.
        signals: Keys of the signals for which it waits.
        children: Ids of the runs for which it waits.
        mark: The mark of the ends of its children, as it was before it looked at them.
        entries: What its waits write into the history.
        cancelling: Whether it was asked to cancel and knows.
    """

    until: datetime | None = None
    at_once: bool = False
    signals: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    mark: bytes | None = None
    entries: Mapping[KvKey, bytes] = field(default_factory=dict[KvKey, bytes])
    cancelling: bool = False
