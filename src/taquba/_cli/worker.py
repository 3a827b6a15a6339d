"""`worker`: run a handler on the jobs of a queue."""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Annotated, cast

import typer

from taquba import Handler, QueueConfig, WorkerSpec, run_workers
from taquba._cli import shapes
from taquba._cli.errors import CommandError, ExitCode
from taquba._cli.options import (
    AsJson,
    Create,
    PayloadUrl,
    Store,
    TakeOver,
    command,
    duration_option,
)
from taquba._cli.output import note, print_json
from taquba._cli.stores import owning

_HEARTBEAT = timedelta(seconds=5)


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(
        app,
        "worker",
        "taquba worker -s ./data mail:send --queue mail",
        "taquba worker -s ./data app.jobs:report -q reports -c 10 --timeout 5m",
    )(worker)


async def worker(
    handler: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:HANDLER", help="A function (job, lease), or an object with process()."
        ),
    ],
    store: Store,
    queue: Annotated[
        str, typer.Option("--queue", "-q", metavar="NAME", help="The queue to work on.")
    ],
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Handlers that run at the same time.")
    ] = 1,
    timeout: Annotated[
        timedelta | None, duration_option("--timeout", "Stop a handler after this time.")
    ] = None,
    lease: Annotated[
        timedelta | None, duration_option("--lease", "Lease of a claim; 30s if not said.")
    ] = None,
    drain_timeout: Annotated[
        timedelta | None,
        duration_option("--drain-timeout", "How long handlers get to finish at the end."),
    ] = None,
    keep_done: Annotated[
        timedelta | None,
        duration_option(
            "--keep-done", "Keep completed jobs this long; if not said, none, also no earlier ones."
        ),
    ] = None,
    keep_dead: Annotated[
        timedelta | None,
        duration_option("--keep-dead", "Keep dead letters this long; for ever if not said."),
    ] = None,
    create: Create = False,
    take_over: TakeOver = False,
    payload_url: PayloadUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run a handler on the jobs of a queue.

    This process owns the store until Ctrl-C or SIGTERM. Then running handlers finish; a second
    Ctrl-C cancels them, and their jobs go back. The module is found from the current folder. With
    --json the counters are printed at the end.
    """
    spec = WorkerSpec(
        queue, load_handler(handler), concurrency=concurrency, timeout=timeout, lease=lease
    )
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    config = QueueConfig(keep_done_jobs=keep_done, dead_retention=keep_dead)
    async with owning(
        store,
        take_over=take_over,
        create=create,
        payload_url=payload_url,
        queue_configs={queue: config},
        heartbeat_interval=_HEARTBEAT,
    ) as owner:
        before = await owner.stats(queue)
        note(f"working on {queue} with {handler}; Ctrl-C ends")
        await run_workers(owner, spec, drain_timeout=drain_timeout)
        after = await owner.stats(queue)
    done = after.done - before.done
    if as_json:
        print_json({"queue": queue, "done_here": done, **shapes.stats(after)})
    else:
        waiting = after.pending + after.scheduled
        note(f"stopped: {done:,} done, {waiting:,} waiting, {after.dead:,} dead")


def load_handler(where: str) -> Handler:
    """Import ``module:name``, also from the current folder; ``name`` may have dots."""
    module_name, _, path = where.partition(":")
    if not module_name or not path:
        raise CommandError(
            f"{where!r} names no handler: write module:handler, for example mail:send",
            ExitCode.usage,
        )
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise CommandError(f"importing {module_name} failed: {error}") from error
        raise CommandError(
            f"no module {error.name!r} in {here} or among the installed packages", ExitCode.usage
        ) from error
    except Exception as error:
        cause = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        raise CommandError(f"importing {module_name} failed: {cause}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise CommandError(f"{module_name} has no {path!r}", ExitCode.usage)
        found = getattr(found, name)
    return cast("Handler", found)
