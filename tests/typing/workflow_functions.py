"""What type checkers make of durable functions. Checked, never run.

Each `type: ignore` is a line that must be an error: both checkers report one that is not needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import assert_type
from uuid import UUID

from taquba import CancelToken, Queue, QueueReader
from taquba_workflow import (
    CallKind,
    CallRecord,
    CallState,
    ChildFailed,
    NonDeterminism,
    RunFailed,
    RunHandle,
    RunStatus,
    StartOptions,
    StepFailed,
    StepInfo,
    StepOptions,
    Workflow,
    WorkflowContext,
    WorkflowFunction,
    WorkflowRuntime,
    current_step,
    fetch_run_result,
    read_history,
    step,
    workflow,
)


class Receipt: ...


class Approval: ...


@step(name="charge", max_attempts=5, backoff=timedelta(seconds=2), backoff_max=60)
async def charge(order_id: str, amount: int = 0) -> float:
    info = current_step()
    assert_type(info, StepInfo)
    assert_type(info.idempotency_key, str)
    assert_type(info.cancel_token, CancelToken)
    return 0.0


def ship(order_id: str, *, parcel: int) -> str:
    return order_id


class Bank:
    @step(max_attempts=1)
    async def transfer(self, amount: int) -> bytes:
        return b""


@workflow(name="invoice", version=2)
async def invoice(ctx: WorkflowContext, order_id: str) -> list[str]:
    return [order_id]


@workflow(name="order")
async def order(ctx: WorkflowContext, order_id: str, *, note: str = "") -> Receipt:
    assert_type(ctx.run_id, str)
    assert_type(ctx.headers, Mapping[str, str])

    # Steps keep the types of their functions.
    assert_type(await ctx.step(charge, order_id), float)
    assert_type(await ctx.step(charge, order_id, amount=5), float)
    assert_type(await ctx.step(ship, order_id, parcel=1), str)
    assert_type(await ctx.step(Bank().transfer, 5), bytes)
    assert_type(await ctx.step_with(StepOptions(max_attempts=9), charge, order_id), float)
    assert_type(await ctx.step_with(StepOptions(name="x"), ship, order_id, parcel=1), str)
    await ctx.step(charge, 5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await ctx.step(charge)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await ctx.step(charge, order_id, 1, 2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await ctx.step(ship, order_id, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await ctx.step(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await ctx.step_with(charge, order_id)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

    # Waits.
    assert_type(await ctx.sleep(timedelta(days=1)), None)
    await ctx.sleep("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await ctx.wait_signal("k"), bytes)
    assert_type(await ctx.wait_signal("k", timeout=5), bytes | None)
    assert_type(await ctx.wait_signal("k", type=Approval), Approval)
    assert_type(await ctx.wait_signal("k", timeout=5, type=Approval), Approval | None)
    await ctx.wait_signal(5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

    # Branches and children.
    assert_type(
        await ctx.gather(ctx.step(charge, order_id), ctx.sleep(1), ctx.wait_signal("k")),
        tuple[float, None, bytes],
    )
    assert_type(
        await ctx.gather(*(ctx.step(ship, order_id, parcel=n) for n in range(3))),
        tuple[str, ...],
    )
    assert_type(await ctx.child(invoice, order_id), list[str])
    await ctx.child(invoice, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.child(charge, order_id)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await invoice(ctx, order_id), list[str])

    # Decisions.
    assert_type(ctx.patched("p"), bool)
    assert_type(ctx.on_failure(ship, order_id, parcel=1), None)
    ctx.on_failure(charge, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(ctx.now(), datetime)
    assert_type(ctx.random(), Random)
    assert_type(ctx.uuid4(), UUID)
    return Receipt()


async def without_context(order_id: str) -> None: ...


def not_async(ctx: WorkflowContext) -> None: ...


workflow(name="x")(without_context)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
workflow(name="x")(not_async)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
workflow("x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
StepOptions(5)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
StartOptions(run_id=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def running(queue: Queue, reader: QueueReader) -> None:
    runtime = WorkflowRuntime(queue, workflows=[order, invoice])
    WorkflowRuntime(queue, workflows=[charge])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]

    handle = await runtime.start(order, "17", note="x")
    assert_type(handle, RunHandle[Receipt])
    assert_type(await handle, Receipt)
    assert_type(await handle.result(timeout=timedelta(days=1)), Receipt)
    assert_type(await handle.fetch_result(), Receipt | None)
    assert_type(await handle.status(), RunStatus | None)
    assert_type(await handle.cancel(), bool)
    assert_type((handle.run_id, handle.new), tuple[str, bool])
    options = StartOptions(run_id="r", headers={"a": "b"}, priority=5)
    assert_type(await runtime.start_with(options, invoice, "17"), RunHandle[list[str]])
    assert_type(runtime.handle(invoice, "r"), RunHandle[list[str]])
    await runtime.start(order)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await runtime.start(order, 17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await runtime.start(charge, "17")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    (record,) = await runtime.history("r")
    assert_type(record, CallRecord)
    assert_type((record.kind, record.state), tuple[CallKind, CallState])
    assert_type(await runtime.parked(), list[RunStatus])
    assert_type(await fetch_run_result(reader, order, "r"), Receipt | None)
    assert_type(await read_history(reader, "r", queue_name="w"), list[CallRecord])


def errors(failed: RunFailed, step: StepFailed, child: ChildFailed, change: NonDeterminism) -> None:
    assert_type((failed.run_id, failed.state, failed.reason), tuple[str, str, str])
    assert_type((step.step, step.kind, step.message), tuple[str, str, str])
    assert_type((child.run_id, child.state, child.reason), tuple[str, str, str])
    assert_type((change.call, change.expected, change.came), tuple[str, str, str])


made: WorkflowFunction[[str], list[str]] = invoice
known: Workflow[[str], list[str]] = invoice
called: Callable[[WorkflowContext, str], Awaitable[list[str]]] = invoice
