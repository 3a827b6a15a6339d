from __future__ import annotations

import inspect

import pytest

import taquba

# A name added here is a promise to users; a name removed from here breaks their programs.
PUBLIC = [
    "MAX_KV_VALUE_SIZE",
    "PRIORITY_HIGH",
    "PRIORITY_LOW",
    "PRIORITY_NORMAL",
    "AsyncHandler",
    "AttemptOutcome",
    "CancelOutcome",
    "CancelRequested",
    "CancelToken",
    "Claim",
    "ClaimLost",
    "Clock",
    "DuplicateJobId",
    "Duration",
    "EnqueueRequest",
    "EnqueueResult",
    "FailWith",
    "ForkedError",
    "Handler",
    "HandlerResult",
    "IncompatibleStore",
    "InvalidArgument",
    "InvalidArgumentType",
    "InvalidJobId",
    "InvalidQueueName",
    "InvalidState",
    "JobAttempt",
    "JobNotFound",
    "JobPage",
    "JobRecord",
    "JobStatus",
    "KvEntry",
    "KvKey",
    "KvPage",
    "KvValueTooLarge",
    "LeaseHandle",
    "NackOutcome",
    "PermanentFailure",
    "PlainHandler",
    "Processor",
    "Queue",
    "QueueClosed",
    "QueueConfig",
    "QueueReader",
    "QueueStats",
    "RetryAfter",
    "SettlementEffects",
    "StoreError",
    "StoreFenced",
    "StoreNotInitialized",
    "SystemClock",
    "TaqubaError",
    "WaitOutcome",
    "WaitStatus",
    "WakeOutcome",
    "WorkerSpec",
    "WrongEventLoop",
    "run_worker",
    "run_workers",
]

DOCUMENTED = [
    name
    for name in taquba.__all__
    if inspect.isclass(getattr(taquba, name)) or inspect.isroutine(getattr(taquba, name))
]


def test_public_names_are_frozen() -> None:
    assert sorted(taquba.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_public_name_is_documented(name: str) -> None:
    value = getattr(taquba, name)
    # `inspect.getdoc` would accept the docstring of a base class; a dataclass without one gets its
    # signature as docstring.
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")


def public_methods() -> list[str]:
    return sorted(
        f"{name}.{attribute}"
        for name in DOCUMENTED
        if inspect.isclass(getattr(taquba, name))
        for attribute, value in vars(getattr(taquba, name)).items()
        if not attribute.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod))
    )


@pytest.mark.parametrize("path", public_methods())
def test_public_method_is_documented(path: str) -> None:
    class_name, attribute = path.split(".")
    # A method that a base class documents needs no second docstring.
    assert inspect.getdoc(getattr(getattr(taquba, class_name), attribute))
