"""`run_service`: a process that takes part in a service until it is told to end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Unpack, cast

from taquba._model.errors import InvalidArgument
from taquba._model.validate import Duration
from taquba._queue.open_options import OwnerOptions
from taquba._service.parts import Part
from taquba._service.service import RoleChoice, Service
from taquba._service.settings import Handlers
from taquba._worker.shutdown import Shutdown
from taquba._worker.workers import stopping


async def run_service(
    service: Service | str | os.PathLike[str],
    *parts: Part | Handlers,
    role: RoleChoice = "auto",
    takeover_after: Duration = 5,
    drain_timeout: Duration | None = None,
    shutdown: Shutdown | None = None,
    handle_signals: bool = True,
    **options: Unpack[OwnerOptions],
) -> None:
    """Take part in a service until SIGTERM, SIGINT or `shutdown`; see `Service`.

        await run_service("./data", {"mail": send_mail})

        service = Service("./data")
        jobs = JobRunner(service, jobs=[make_report])
        await run_service(service, jobs)

    A second signal cancels the handlers at once; their jobs return without spending the attempt,
    and handlers that do not end are left behind. If a part ends with an error, the others end as
    they do at the end, and the error is raised.

    Args:
        service: A `Service` that is not running yet, or the URL of one to make with the arguments
            that follow.
        parts: With a `Service`, what runs in this process beside its handlers: `JobRunner`,
            `WorkflowRuntime`, `CronScheduler`, anything else with ``async with``. With a URL, also
            the handlers of the service.
        role: ``"auto"``, ``"worker"`` or ``"producer"``.
        takeover_after: Seconds after which an owner without a sign of life is replaced.
        drain_timeout: How long running handlers get at the end, seconds.
        shutdown: Another way to stop.
        handle_signals: Install handlers for SIGTERM and SIGINT while this runs. Only the main
            thread can; elsewhere pass False and use `shutdown`.
        options: Options of `Queue.open`.

    Raises:
        TaqubaError: The store cannot be opened, by this process or any other.
    """
    given = bool(options) or (role, takeover_after, drain_timeout) != ("auto", 5, None)
    check_given("run_service", service, parts, settings=given)
    service = with_parts(
        service,
        parts,
        role=role,
        takeover_after=takeover_after,
        drain_timeout=drain_timeout,
        **options,
    )
    interrupt = service._interrupt  # pyright: ignore[reportPrivateUsage] - its own
    async with stopping(shutdown, interrupt, handle_signals=handle_signals) as stop:
        await service.run(stop)


def check_given(
    function: str, service: object, parts: Iterable[Part | Handlers], *, settings: bool
) -> None:
    """Raise where a `Service` was given, and what belongs to it beside it.

    Args:
        function: The name of the function, for messages.
        service: A `Service`, or the URL of one.
        parts: What is to run in it.
        settings: Whether settings of a service were given.
    """
    if not isinstance(service, Service):
        return
    if settings:
        raise InvalidArgument(
            f"{function} was given a Service and settings for one: give the settings to the Service"
        )
    for part in parts:
        if _are_handlers(part):
            raise InvalidArgument(
                "a Service was given, and handlers beside it: give the handlers to the Service; "
                f"got {part!r}"
            )


def with_parts(
    service: Service | str | os.PathLike[str],
    parts: Iterable[Part | Handlers],
    **settings: Any,
) -> Service:
    """A service that will run parts: the given one, or one with these settings and handlers."""
    handlers = [part for part in parts if _are_handlers(part)]
    if not isinstance(service, Service):
        if len(handlers) > 1:
            raise InvalidArgument(f"the handlers of {service} are in two parts: give them in one")
        service = Service(service, *cast("list[Handlers]", handlers), **settings)
    others = [part for part in parts if not _are_handlers(part)]
    service._with_parts(cast("list[Part]", others))  # pyright: ignore[reportPrivateUsage] - its own
    return service


def _are_handlers(part: object) -> bool:
    return isinstance(part, (Mapping, list, tuple, set, frozenset))
