"""The settings of a service: its handlers, and how an owner opens the store."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from typing import Final, cast

from taquba._model import validate
from taquba._model.describing import describe, shown
from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba._worker.handlers import Handler, check_handler, same_handler
from taquba._worker.overrun import OwnProcess
from taquba._worker.pools import check_sendable
from taquba._worker.worker import WorkerSpec

CONCURRENCY: Final = 8
"""Jobs that each handler of a mapping runs at a time, in each process."""

_MOST_PROCESSES: Final = 1000

Handlers = Mapping[str, Handler] | Iterable[WorkerSpec]


def worker_specs(handlers: Handlers) -> tuple[WorkerSpec, ...]:
    """The worker loops for `handlers`, checked."""
    if isinstance(handlers, Mapping):
        by_name = cast("Mapping[str, Handler]", handlers)
        handlers = [
            WorkerSpec(name, handler, concurrency=CONCURRENCY) for name, handler in by_name.items()
        ]
    elif not isinstance(handlers, Iterable) or isinstance(handlers, str):
        raise InvalidArgumentType(
            f"handlers must map queue names to handlers, or list WorkerSpecs; got {handlers!r}"
        )
    specs = tuple(handlers)
    for spec in specs:
        validate.instance(spec, WorkerSpec, "each handler")
        validate.queue_name(spec.queue)
        check_handler(spec.handler, spec.executor)
        _check_processes(spec)
    by_queue: dict[str, Handler] = {}
    for spec in specs:
        # Found here, and not only once this process owns the store.
        if not same_handler(by_queue.setdefault(spec.queue, spec.handler), spec.handler):
            raise InvalidArgument(
                f"queue {spec.queue!r} has two handlers, {shown(by_queue[spec.queue])} and "
                f"{shown(spec.handler)}, and each would take the other's jobs: use another queue "
                "for one of them"
            )
    return specs


def _check_processes(spec: WorkerSpec) -> None:
    """Refuse settings of processes that make no sense together."""
    validate.instance(spec.kill, bool, "kill")
    if spec.processes is not None:
        validate.integer(spec.processes, "processes", 0, _MOST_PROCESSES)
    if not spec.kill:
        return
    if not spec.processes and not OwnProcess.is_one:
        raise InvalidArgument(
            f"kill=True of queue {spec.queue!r} ends the process that runs a function, and this "
            "one runs everything: set processes as well, so that the function has another one"
        )
    if spec.timeout is None:
        raise InvalidArgument(
            f"kill=True of queue {spec.queue!r} is about functions that do not end by their "
            "timeout: set timeout as well"
        )
    if spec.executor is not None:
        raise InvalidArgument(
            f"kill=True of queue {spec.queue!r} cannot end a function in an executor: leave "
            "executor out, and choose concurrency and processes"
        )


def check_sending(spec: WorkerSpec, options: Mapping[str, object]) -> None:
    """Refuse what cannot be sent to the processes of a worker loop.

    Args:
        spec: The worker loop.
        options: The options of the service.
    """
    if isinstance(spec.executor, Executor):
        raise InvalidArgument(
            f"the executor of queue {spec.queue!r} cannot be sent to its processes: pass a "
            "function at the top level of a module that makes it"
        )
    for function in (spec.handler, spec.executor):
        if function is not None:
            _check_importable(function)
            check_sendable(function)
    for name, value in options.items():
        try:
            pickle.dumps(value)
        except Exception as error:
            raise InvalidArgument(
                f"the option {name}={shown(value)} cannot be sent to the processes of queue "
                f"{spec.queue!r}: {describe(error)}; leave it out, or run the queue in this "
                "process, without processes"
            ) from None


def _check_importable(function: object) -> None:
    main = sys.modules.get("__main__")
    if getattr(function, "__module__", None) != "__main__" or main is None:
        return
    if getattr(main, "__spec__", None) is None and not hasattr(main, "__file__"):
        raise InvalidArgument(
            f"{shown(function)} cannot be sent to another process: it was typed in, and another "
            "process can only import it; define it in a module"
        )
