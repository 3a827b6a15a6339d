from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from taquba import (
    EnqueueRequest,
    InvalidArgument,
    InvalidArgumentType,
    InvalidQueueName,
    QueueConfig,
    SettlementEffects,
    TaqubaError,
)
from taquba._rules.transitions import backoff_ms
from taquba.testing import MockClock
from tests.queue.support import OpenQueue

BAD: dict[str, tuple[dict[str, Any], type[TaqubaError], str]] = {
    "no attempts": ({"max_attempts": 0}, InvalidArgument, "max_attempts.*0"),
    "half an attempt": ({"max_attempts": 1.5}, InvalidArgumentType, "max_attempts.*1.5"),
    "no lease": ({"lease_duration": 0}, InvalidArgument, "lease_duration.*0"),
    "negative lease": ({"lease_duration": -5}, InvalidArgument, "lease_duration.*-5"),
    "lease as text": ({"lease_duration": "30"}, InvalidArgumentType, "lease_duration.*'30'"),
    "lease of None": ({"lease_duration": None}, InvalidArgumentType, "lease_duration.*None"),
    "priority over u32": ({"default_priority": 2**32}, InvalidArgument, "default_priority.*4294"),
    "negative priority": ({"default_priority": -1}, InvalidArgument, "default_priority.*-1"),
    "negative base": ({"retry_backoff_base": -1}, InvalidArgument, "retry_backoff_base.*-1"),
    "max below base": (
        {"retry_backoff_base": 10, "retry_backoff_max": 5},
        InvalidArgument,
        r"retry_backoff_max \(5\).*retry_backoff_base \(10\)",
    ),
    "absurd max": ({"retry_backoff_max": 1e12}, InvalidArgument, "retry_backoff_max.*1000000"),
    "negative jitter": ({"retry_jitter": -0.1}, InvalidArgument, "retry_jitter.*-0.1"),
    "jitter over 1": ({"retry_jitter": 1.1}, InvalidArgument, "retry_jitter.*1.1"),
    "jitter NaN": ({"retry_jitter": float("nan")}, InvalidArgument, "retry_jitter.*nan"),
    "jitter as text": ({"retry_jitter": "0.1"}, InvalidArgumentType, "retry_jitter.*'0.1'"),
    "bool jitter": ({"retry_jitter": True}, InvalidArgumentType, "retry_jitter.*True"),
    "negative keep": ({"keep_done_jobs": -1}, InvalidArgument, "keep_done_jobs.*-1"),
    "keep as bool": ({"keep_done_jobs": True}, InvalidArgumentType, "keep_done_jobs.*True"),
    "negative retention": (
        {"dead_retention": timedelta(-1)},
        InvalidArgument,
        "dead_retention.*days=-1",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_a_bad_setting_is_refused_by_name(
    case: tuple[dict[str, Any], type[TaqubaError], str],
) -> None:
    options, kind, message = case
    with pytest.raises(kind, match=message):
        QueueConfig(**options)


def test_the_defaults() -> None:
    config = QueueConfig()
    assert dataclasses.asdict(config) == {
        "max_attempts": 3,
        "lease_duration": 30,
        "default_priority": 1000,
        "retry_backoff_base": 1,
        "retry_backoff_max": 300,
        "retry_jitter": 0.1,
        "keep_done_jobs": None,
        "dead_retention": 7 * 24 * 3600,
    }


@pytest.mark.parametrize(
    "option", [QueueConfig(), EnqueueRequest("q", b""), SettlementEffects()], ids=repr
)
def test_option_objects_are_frozen_and_slotted(option: object) -> None:
    name = dataclasses.fields(option)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(option, name, None)
    assert not hasattr(option, "__dict__")
    assert dataclasses.replace(option) == option  # type: ignore[type-var]


async def test_a_queue_tells_its_settings_and_its_clock(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    own, default = QueueConfig(max_attempts=7), QueueConfig(max_attempts=5)
    queue = await open_queue(default_config=default, queue_configs={"own": own})
    assert queue.clock is mock_clock
    assert queue.config("own") is own
    assert queue.config("other") is default
    with pytest.raises(InvalidQueueName):
        queue.config("")


def test_optional_settings_are_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        QueueConfig(3)  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        EnqueueRequest("q", b"", 5)  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        SettlementEffects([])  # type: ignore[misc]


@pytest.mark.parametrize("seconds", [0.0001, 0.001, 1, 1.5, timedelta(milliseconds=1)])
def test_durations_are_seconds_or_timedeltas_and_never_shrink_to_nothing(
    seconds: float | timedelta,
) -> None:
    lease_ms = QueueConfig(lease_duration=seconds).policy().lease_ms
    given = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    assert lease_ms >= 1
    assert 0 <= lease_ms - given * 1000 < 1


def test_the_backoff_of_attempt_n() -> None:
    policy = QueueConfig(retry_backoff_base=2, retry_backoff_max=100, retry_jitter=0.5).policy()
    waits = [backoff_ms(attempt, policy, 0) for attempt in range(1, 9)]
    assert waits == [2000, 4000, 8000, 16_000, 32_000, 64_000, 100_000, 100_000]
    assert backoff_ms(1, policy, 1) == 3000
    assert backoff_ms(10**6, policy, 1) == 150_000
    assert backoff_ms(5, QueueConfig(retry_backoff_base=0).policy(), 1) == 0
