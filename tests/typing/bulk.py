"""What the type checkers infer for batches: typed in and out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

import anyio

from taquba import CancelToken, LeaseHandle, Queue
from taquba_bulk import (
    BudgetExceeded,
    Bulk,
    BulkContext,
    BulkRecord,
    BulkReport,
    FailureThresholdExceeded,
    ItemStatus,
    JsonLines,
    JsonlSink,
    NullSink,
    PaidCall,
    ProgressSnapshot,
    read_jsonl,
)


@dataclass
class Document:
    name: str


@dataclass
class Summary:
    text: str


async def summarize(ctx: BulkContext[Document]) -> Summary:
    assert_type(ctx.input, Document)
    assert_type(ctx.run_id, str)
    assert_type(ctx.headers, Mapping[str, str])
    assert_type(ctx.attempt, int)
    assert_type(ctx.cancel_token, CancelToken)
    assert_type(ctx.lease, LeaseHandle)
    assert_type(ctx.record_cost("usd", 0.1), None)

    async def length() -> int:
        return len(ctx.input.name)

    async def priced() -> tuple[Summary, dict[str, float]]:
        return Summary(""), {"usd": 1}

    assert_type(await ctx.memoized("a", length), int)
    assert_type(await ctx.memoized("a", length, type=int), int)
    assert_type(await ctx.memoized_by_content(["x"], length), int)
    assert_type(await ctx.memoized_with_cost("b", priced, type=Summary), Summary)
    assert_type(await ctx.memoized_by_content_with_cost(5, priced), Summary)
    await ctx.memoized("a", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.memoized(5, length)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.memoized("a", length, type=str)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.memoized_with_cost("b", length)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def call(paid: PaidCall) -> int:
        assert_type(paid.idempotency_key, str)
        assert_type(paid.begun, int)
        return 1

    assert_type(await ctx.paid_call("p", call), int)
    assert_type(
        await ctx.paid_call(
            "p",
            call,
            reserve={"usd": 0.1},
            on_unknown="retry",
            rate="llm",
            cache="c",
            ttl=timedelta(days=1),
        ),
        int,
    )
    assert_type(await ctx.paid_call("p", call, on_unknown="skip"), int | None)
    assert_type(await ctx.paid_call("p", call, on_unknown=call, type=int), int)
    assert_type(await ctx.acquire("llm"), None)
    assert_type(await ctx.memoized_by_content("x", length, cache="c", ttl=60), int)
    await ctx.paid_call("p", length)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.paid_call("p", call, on_unknown="ignore")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.paid_call("p", call, reserve=0.1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    ctx.record_cost("usd", "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return Summary("")


class Summarizer:
    async def run(self, ctx: BulkContext[Document]) -> Summary:
        return Summary(ctx.input.name)


def plain(ctx: BulkContext[Document]) -> Summary:
    return Summary(ctx.input.name)


async def running(queue: Queue, shutdown: anyio.Event) -> None:
    bulk = Bulk(queue, summarize, output=JsonlSink(Path("out.jsonl")), key=lambda d: d.name)
    assert_type(bulk, Bulk[Document, Summary])
    assert_type(Bulk(queue, Summarizer()), Bulk[Document, Summary])
    assert_type(await bulk.run([Document("a")], shutdown), BulkReport)
    assert_type(await bulk.run(documents(), asyncio.Event()), BulkReport)
    assert_type(await bulk.run(read_jsonl("in.jsonl", Document)), BulkReport)
    async for record in bulk.stream([Document("a")]):
        assert_type(record, BulkRecord[Summary])
        assert_type(record.output, Summary | None)
        assert_type(record.status, ItemStatus)
        assert_type(record.error, str | None)
    assert_type(bulk.progress(), ProgressSnapshot)
    assert_type(await bulk.cancel("r"), bool)
    Bulk(
        queue,
        summarize,
        output=NullSink(),
        headers={"a": "b"},
        max_concurrent=5,
        queue_name="b",
        fail_threshold=0.1,
        budget={"usd": 50},
        rate={"llm": (500, "1m"), "mail": (5, timedelta(seconds=1))},
        progress=True,
    )
    Bulk(queue, summarize, budget=50)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Bulk(queue, summarize, rate={"llm": 500})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    Bulk(queue, plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Bulk(queue, summarize, JsonlSink("out"))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Bulk(queue, summarize, output="out.jsonl")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Bulk(queue, summarize, key=lambda d: d.nome)  # type: ignore[attr-defined]  # pyright: ignore[reportUnknownMemberType, reportUnknownLambdaType, reportAttributeAccessIssue]
    await bulk.run(["a"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await bulk.run([Document("a")], True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def documents() -> AsyncIterator[Document]:
    yield Document("a")


def looking(
    report: BulkReport, progress: ProgressSnapshot, error: FailureThresholdExceeded | BudgetExceeded
) -> None:
    assert_type(report.total, int)
    assert_type(report.elapsed, timedelta)
    assert_type(report.cost, Mapping[str, float])
    assert_type(report.spent, Mapping[str, float])
    assert_type(report.failed_run_ids, tuple[str, ...])
    assert_type(report.complete, bool)
    assert_type(progress.total, int | None)
    assert_type(progress.rate, float)
    assert_type(progress.eta, timedelta | None)
    assert_type(error.report, BulkReport)
    assert_type(error.permanent, bool)
    report.total = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert_type(read_jsonl("in.jsonl"), JsonLines[Any])
    assert_type(read_jsonl("in.jsonl", Document), JsonLines[Document])
