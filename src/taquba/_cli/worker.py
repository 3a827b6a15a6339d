"""`worker`: run a handler on the jobs of a queue."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Annotated, cast

import typer

from taquba import Handler, QueueConfig, WorkerSpec, run_workers
from taquba._cli import shapes
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

    This process owns the store until Ctrl-C or SIGTERM. Then running handlers finish; a second
    Ctrl-C cancels them, and their jobs return to the queue. With --until-empty it also ends when
    everything is worked off that may run now, and the requests of producers are taken before that;
    failed jobs do not change the exit code. The module is looked for in the current folder first.
    With --json, the counters are printed at the end.
    """
    spec = WorkerSpec(
        queue,
        cast("Handler", load_object(handler, "handler", "mail:send")),
        concurrency=concurrency,
        timeout=timeout,
        lease=lease,
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
        # Looks at an inbox cost requests, all the time that a worker runs.
        inbox=until_empty,
    ) as owner:
        before = await owner.stats(queue)
        ends = "it ends when none is left that may run now" if until_empty else "Ctrl-C ends"
        note(f"running the jobs of {queue} with {handler}; {ends}")
        await run_workers(owner, spec, drain_timeout=drain_timeout, until_empty=until_empty)
        after = await owner.stats(queue)
    done = after.done - before.done
    if as_json:
        print_json({"queue": queue, "done_here": done, **shapes.stats(after)})
    else:
        waiting = after.pending + after.scheduled
        note(f"stopped: {done:,} done, {waiting:,} waiting, {after.dead:,} dead")
