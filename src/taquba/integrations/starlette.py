"""Starlette and FastAPI: every process of the server takes part in a service."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypedDict, Unpack

from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from taquba._model.validate import Duration
from taquba._queue.open_options import OwnerOptions
from taquba._service.parts import Part
from taquba._service.running import check_given, with_parts
from taquba._service.service import RoleChoice, Service
from taquba._service.settings import Handlers

__all__ = ["ServiceState", "service_lifespan", "service_of"]


class ServiceState(TypedDict):
    """The state that the lifespan adds to each request."""

    taquba: Service


def service_lifespan(
    service: Service | str | os.PathLike[str],
    *parts: Part | Handlers,
    role: RoleChoice = "auto",
    takeover_after: Duration = 5,
    drain_timeout: Duration | None = 10,
    **options: Unpack[OwnerOptions],
) -> Callable[[Starlette], AbstractAsyncContextManager[ServiceState]]:
    """A lifespan that runs a `Service`, for an application that is served by several processes.

        app = FastAPI(lifespan=service_lifespan("s3://bucket/prefix", {"mail": send_mail}))

        @app.post("/mails")
        async def post(mail: Mail, service: Annotated[Service, Depends(service_of)]) -> str:
            receipt = await service.enqueue("mail", mail.model_dump_json().encode())
            return receipt.id

    With typed jobs, workflows and schedules, which are made for the service beforehand:

        service = Service("s3://bucket/prefix", drain_timeout=10)
        jobs = JobRunner(service, jobs=[make_report])
        app = FastAPI(lifespan=service_lifespan(service, jobs))

    Args:
        service: A `Service` that is not running yet, or the URL of one to make with the arguments
            that follow, which are those of `Service`.
        parts: With a `Service`, what each process runs beside its handlers: `JobRunner`,
            `WorkflowRuntime`, `CronScheduler`, anything else with ``async with``. With a URL, also
            the handlers of the service.
        role: ``"auto"``, ``"worker"`` or ``"producer"``.
        takeover_after: Seconds after which an owner without a sign of life is replaced.
        drain_timeout: How long running handlers may take when the server stops, seconds.
        options: Options of `Queue.open`.
    """
    given = bool(options) or (role, takeover_after, drain_timeout) != ("auto", 5, 10)
    check_given("service_lifespan", service, parts, settings=given)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[ServiceState]:
        # Created here, not with the application, which may be before the server forks.
        running = with_parts(
            service,
            parts,
            role=role,
            takeover_after=takeover_after,
            drain_timeout=drain_timeout,
            **options,
        )
        async with running:
            yield {"taquba": running}

    return lifespan


def service_of(connection: HTTPConnection) -> Service:
    """The service of the process that serves a request; FastAPI takes it as a dependency."""
    service: Service = connection.state.taquba
    return service
