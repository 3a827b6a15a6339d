"""The command `taquba bulk`, which taquba's command line imports when it is requested."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, cast

import typer

from taquba import QueueConfig
from taquba.cli import (
    AsJson,
    CommandError,
    Document,
    ExitCode,
    PayloadUrl,
    Store,
    TakeOver,
    command,
    group,
    load_object,
    note,
    owning,
    print_json,
    say,
)
from taquba_bulk._bulk import Bulk
from taquba_bulk._display import costs_of, span
from taquba_bulk._errors import BudgetExceeded, FailureThresholdExceeded
from taquba_bulk._jsonl import JsonLines, read_jsonl
from taquba_bulk._pipeline import Pipeline
from taquba_bulk._report import BulkReport
from taquba_bulk._sinks import JsonlSink

app: Final = group("Run one pipeline over many inputs.")

T = TypeVar("T")

_HEARTBEAT: Final = timedelta(seconds=5)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@command(
    app,
    "run",
    "taquba bulk run translate:translate in.jsonl out.jsonl -s ./batch",
    "taquba bulk run app.llm:ask in.jsonl out.jsonl -s ./batch --rate llm=500/1m --budget usd=50",
    "zcat in.jsonl.gz | taquba bulk run translate:translate - out.jsonl -s ./batch",
)
async def run(
    pipeline: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:PIPELINE", help="`async def run(ctx)`, a function or an object."
        ),
    ],
    inputs: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="Inputs: a file or a pipe with a JSON value on each line, or - for standard "
            "input.",
        ),
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Rows: a file that this batch writes.")
    ],
    store: Store,
    queue: Annotated[
        str, typer.Option("--queue", "-q", metavar="NAME", help="Names the batch in its store.")
    ] = "bulk",
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Items that run at the same time.")
    ] = 100,
    attempts: Annotated[
        int, typer.Option("--max-attempts", min=1, help="Attempts of each item.")
    ] = 3,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="FIELD",
            help="Field of the inputs that is their key; default: content.",
        ),
    ] = None,
    fail_threshold: Annotated[
        str | None,
        typer.Option(
            "--fail-threshold",
            metavar="N|SHARE",
            help="Stop when more items fail than this: 100, or 0.05 of them.",
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget", metavar="METRIC=AMOUNT", help="Maximum cost of paid calls. May be repeated."
        ),
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(
            "--rate", metavar="KEY=N/TIME", help="A rate limit: llm=500/1m. May be repeated."
        ),
    ] = None,
    take_over: TakeOver = False,
    payload_url: PayloadUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline on every line of a file; run it again to continue.

    This process owns the store, which is created if there is none. Ctrl-C lets running items end; a
    second one cancels them. Whatever ended the batch, the same command continues it. Progress is
    shown on standard error, and the report at the end on standard output.
    """
    found = cast("Pipeline[Any, Any]", load_object(pipeline, "pipeline", "translate:translate"))
    lines = _lines_of(inputs)
    limits = _pairs(budget, "--budget", "usd=50", float)
    rates = _pairs(rate, "--rate", "llm=500/1m", _rate)
    threshold = None if fail_threshold is None else _threshold(fail_threshold)
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    async with owning(
        store,
        take_over=take_over,
        create=True,
        payload_url=payload_url,
        queue_configs={queue: QueueConfig(max_attempts=attempts)},
        heartbeat_interval=_HEARTBEAT,
    ) as owner:
        bulk = Bulk(
            owner,
            found,
            output=JsonlSink(output),
            key=None if key is None else _key_of(key),
            max_concurrent=concurrency,
            queue_name=queue,
            fail_threshold=threshold,
            budget=limits,
            rate=rates,
            progress=True,
        )
        shutdown = asyncio.Event()
        running = asyncio.ensure_future(bulk.run(lines, shutdown))
        with _signals(running, shutdown):
            report, refusal = await _outcome(running)
    _print(report, as_json)
    if refusal is not None:
        raise CommandError(refusal)
    if not report.complete:
        raise CommandError("stopped; run it again to continue", ExitCode.INTERRUPTED)


async def _outcome(running: asyncio.Future[BulkReport]) -> tuple[BulkReport, str | None]:
    """The report, and why the batch was stopped."""
    try:
        return await running, None
    except (BudgetExceeded, FailureThresholdExceeded) as error:
        return error.report, str(error)
    except asyncio.CancelledError:
        raise CommandError("cancelled; run it again to continue", ExitCode.INTERRUPTED) from None


@contextmanager
def _signals(running: asyncio.Future[BulkReport], shutdown: asyncio.Event) -> Generator[None]:
    """The first signal lets running items end, the second one cancels them."""

    def on_signal() -> None:
        if shutdown.is_set():
            running.cancel()
            return
        note("letting running items end; Ctrl-C again cancels them")
        shutdown.set()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _lines_of(inputs: Path) -> JsonLines[Any]:
    if str(inputs) == "-":
        if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - as with <&-
            raise CommandError("standard input is closed: name a file", ExitCode.USAGE)
        return JsonLines(sys.stdin.fileno(), Any)
    if not inputs.exists():
        raise CommandError(f"there is no file {inputs}", ExitCode.NOT_FOUND)
    if inputs.is_dir():
        raise CommandError(f"{inputs} is a folder: name a file, or -", ExitCode.USAGE)
    return read_jsonl(inputs)


def _key_of(field: str) -> Callable[[Any], str]:
    def key(value: Any) -> str:
        if not isinstance(value, Mapping) or field not in value:
            raise CommandError(f"an input has no field {field!r}: {value!r}", ExitCode.USAGE)
        return str(cast("Mapping[str, object]", value)[field])

    return key


def _pairs(
    given: list[str] | None, option: str, example: str, read: Callable[[str], T]
) -> dict[str, T]:
    """Options like ``name=value``."""
    pairs: dict[str, T] = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        try:
            if not separator:
                raise ValueError
            pairs[name] = read(value)
        except ValueError:
            raise CommandError(
                f"{option} {text!r} cannot be read: write it like {example}", ExitCode.USAGE
            ) from None
    return pairs


def _rate(text: str) -> tuple[int, str]:
    count, _, per = text.partition("/")
    return int(count), per


def _threshold(text: str) -> float:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise CommandError(
            f"--fail-threshold {text!r} is neither a number of items nor a share of them: "
            "write 100, or 0.05",
            ExitCode.USAGE,
        ) from None


def _print(report: BulkReport, as_json: bool) -> None:
    if as_json:
        print_json(_document(report))
        return
    parts = [f"{report.succeeded:,} succeeded", f"{report.failed:,} failed"]
    if report.cancelled:
        parts.append(f"{report.cancelled:,} cancelled")
    if report.resumed:
        parts.append(f"{report.resumed:,} of them before")
    say(f"{', '.join(parts)}; {span(report.elapsed)}")
    if report.cost:
        say(f"cost: {costs_of(report.cost)}")
    if report.spent:
        say(f"spent of the budget: {costs_of(report.spent)}")
    if report.failed_run_ids:
        say(f"failed: {', '.join(report.failed_run_ids[:_SHOWN])}{_more(report)}")


_SHOWN: Final = 10


def _more(report: BulkReport) -> str:
    return f" and {report.failed - _SHOWN:,} more" if report.failed > _SHOWN else ""


def _document(report: BulkReport) -> Document:
    return {
        "total": report.total,
        "succeeded": report.succeeded,
        "failed": report.failed,
        "cancelled": report.cancelled,
        "resumed": report.resumed,
        "complete": report.complete,
        "elapsed_seconds": report.elapsed.total_seconds(),
        "cost": dict(report.cost),
        "spent": dict(report.spent),
        "failed_run_ids": list(report.failed_run_ids),
    }
