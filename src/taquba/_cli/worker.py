"""`worker`: run a handler on the jobs of a queue."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, cast

import typer

from taquba import (
    Handler,
    OwnerOptions,
    QueueConfig,
    QueueStats,
    Service,
    WorkerSpec,
    run_service,
    run_workers,
)
from taquba._cli import shapes
from taquba._cli.errors import CommandError, ExitCode
from taquba._cli.loading import load_object
from taquba._cli.options import (
    AsJson,
    Create,
    PayloadUrl,
    Store,
    TakeOver,
    command,
    duration_option,
)
from taquba._cli.output import log_to_terminal, note, print_json
from taquba._cli.stores import KEEP_EVERYTHING, NoStore, check_joinable, reading

_HEARTBEAT = timedelta(seconds=5)


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(
        app,
        "worker",
        "taquba worker -s ./data mail:send --queue mail",
        "taquba worker -s ./data app.jobs:report -q reports -c 10 --timeout 5m",
        "taquba worker -s ./data app.jobs:resize -q images --processes 4",
        "taquba worker -s s3://bucket/jobs mail:send -q mail --until-empty --create",
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
        str, typer.Option("--queue", "-q", metavar="NAME", help="The queue whose jobs it runs.")
    ],
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Handlers that run at the same time.")
    ] = 1,
    timeout: Annotated[
        timedelta | None, duration_option("--timeout", "Stop a handler after this time.")
    ] = None,
    lease: Annotated[
        timedelta | None, duration_option("--lease", "Lease of a claim; 30s by default.")
    ] = None,
    drain_timeout: Annotated[
        timedelta | None,
        duration_option("--drain-timeout", "How long handlers may take to finish at the end."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="Run it in this many child processes."),
    ] = None,
    kill: Annotated[
        bool,
        typer.Option(
            "--kill", help="A function that does not end by its timeout ends its child process."
        ),
    ] = False,
    until_empty: Annotated[
        bool,
        typer.Option(
            "--until-empty", help="End when no job is left that may run now; takes the inbox, too."
        ),
    ] = False,
    keep_done: Annotated[
        timedelta | None,
        duration_option(
            "--keep-done", "Keep completed jobs this long; by default none, not even earlier ones."
        ),
    ] = None,
    keep_dead: Annotated[
        timedelta | None,
        duration_option("--keep-dead", "Keep dead letters this long; forever by default."),
    ] = None,
    create: Create = False,
    take_over: TakeOver = False,
    payload_url: PayloadUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run a handler on the jobs of a queue.

    This process takes part in the service of the store: several such commands share the work, and
    one of them owns the store, whose settings of retention count. It runs until Ctrl-C or SIGTERM.
    Then running handlers finish; a second Ctrl-C cancels them, and their jobs return to the queue.
    With --processes, child processes run the handler, and are replaced when they die; with --kill,
    a function that does not end by its timeout ends its process. With --until-empty it also ends
    when everything is worked off that may run now, and the requests of producers are taken before
    that; failed jobs do not change the exit code. The module is looked for in the current folder
    first. With --json, the counters are printed at the end.
    """
    if until_empty and processes:
        raise CommandError(
            "--until-empty works in one process: leave --processes out, and start the command "
            "several times",
            ExitCode.USAGE,
        )
    spec = WorkerSpec(
        queue,
        cast("Handler", load_object(handler, "handler", "mail:send")),
        concurrency=concurrency,
        timeout=timeout,
        lease=lease,
        processes=processes,
        kill=kill,
    )
    log_to_terminal()
    config = QueueConfig(keep_done_jobs=keep_done, dead_retention=keep_dead)
    options = OwnerOptions(
        default_config=KEEP_EVERYTHING,
        queue_configs={queue: config},
        heartbeat_interval=_HEARTBEAT,
        payload_url=payload_url,
    )
    service = Service(store, () if until_empty else [spec], drain_timeout=drain_timeout, **options)
    await check_joinable(store, take_over=take_over, create=create)
    before = await _counters(store, queue)
    ends = "it ends when none is left that may run now" if until_empty else "Ctrl-C ends"
    note(f"running the jobs of {queue} with {handler}; {ends}")
    if until_empty:
        async with service:
            # Once there is an owner, which may be this process.
            await service.stats(queue)
            await run_workers(service, spec, drain_timeout=drain_timeout, until_empty=True)
    else:
        await run_service(service)
    after = await _counters(store, queue)
    done = after.done - before.done
    if as_json:
        print_json({"queue": queue, "done_here": done, **shapes.stats(after)})
    else:
        waiting = after.pending + after.scheduled
        note(f"stopped: {done:,} done, {waiting:,} waiting, {after.dead:,} dead")


async def _counters(store: str, queue: str) -> QueueStats:
    """The counters of a queue, whether or not the store has an owner."""
    try:
        async with reading(store, every=0.5) as reader:
            return await reader.stats(queue)
    except NoStore:
        return QueueStats(pending=0, scheduled=0, claimed=0, done=0, dead=0)
