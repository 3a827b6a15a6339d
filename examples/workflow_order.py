"""A durable function: start it, press Ctrl-C or kill it at any moment, start it again.

    python examples/workflow_order.py [--store FOLDER] [--parcels N] [--seconds S]

An order is charged, waits for a while, is shipped in parcels at the same time, and billed by a
workflow of its own. Each step is a line in a ledger, under its idempotency key: a step that runs
again, because its process died just before its result was recorded, makes no second line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from pydantic import BaseModel

from taquba import Queue, QueueConfig
from taquba_workflow import (
    StartOptions,
    WorkflowContext,
    WorkflowRuntime,
    current_step,
    step,
    workflow,
)

# By default the third process in a row that dies in one step fails the run: the step may be why.
PATIENT = QueueConfig(max_attempts=100)


class Receipt(BaseModel):
    charge: str
    parcels: list[str]
    invoice: str


class Ledger:
    """Stands for what is outside: a bank, a carrier. It takes idempotency keys."""

    def __init__(self, queue: Queue, seconds: float) -> None:
        self._queue = queue
        self._seconds = seconds

    async def note(self, what: str) -> str:
        print(what, flush=True)
        await asyncio.sleep(self._seconds)
        await self._queue.kv_put(f"ledger/{current_step().idempotency_key}", what.encode())
        return what


ledger: Ledger


@step(max_attempts=5, backoff=0.5)
async def charge_card(order_id: str) -> str:
    return await ledger.note(f"charge {order_id}")


async def refund(charge: str) -> str:
    return await ledger.note(f"refund of {charge}")


async def ship(order_id: str, parcel: int) -> str:
    return await ledger.note(f"parcel {parcel} of {order_id}")


async def bill(order_id: str) -> str:
    return await ledger.note(f"invoice for {order_id}")


@workflow(name="invoice")
async def invoice(ctx: WorkflowContext, order_id: str) -> str:
    return await ctx.step(bill, order_id)


@workflow(name="order")
async def order(ctx: WorkflowContext, order_id: str, parcels: int, pause: float) -> Receipt:
    charge = await ctx.step(charge_card, order_id)
    ctx.on_failure(refund, charge)
    await ctx.sleep(pause)  # a day would be as good: it holds no worker
    shipped = await ctx.gather(*(ctx.step(ship, order_id, number) for number in range(parcels)))
    return Receipt(charge=charge, parcels=list(shipped), invoice=await ctx.child(invoice, order_id))


async def main(store: str, parcels: int, seconds: float) -> None:
    global ledger
    async with (
        Queue.open(store, queue_configs={"workflow": PATIENT}) as queue,
        WorkflowRuntime(queue, workflows=[order, invoice]) as runtime,
    ):
        ledger = Ledger(queue, seconds)
        handle = await runtime.start_with(
            StartOptions(run_id="order-17"), order, "book", parcels, seconds
        )
        print("a new order" if handle.new else "going on where it stopped", flush=True)
        receipt = await handle
        for record in await runtime.history("order-17"):
            print(f"{record.call:>6} {record.kind:6} {record.name}: {record.result}")
        lines = [entry.value for entry in (await queue.kv_scan("ledger/", limit=10_000)).entries]
        print(f"{len(receipt.parcels)} parcels, {len(lines)} lines in the ledger")
        assert len(lines) == len(set(lines)) == parcels + 2


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", default="./orders", help="a folder, made when it is missing")
    parser.add_argument("--parcels", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1, help="time that each step takes")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.store, options.parcels, options.seconds))
