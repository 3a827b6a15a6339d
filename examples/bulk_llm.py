"""Prompts for a service that is paid by the call, limits its rate, and fails now and then.

    python examples/bulk_llm.py [--store STORE] [--out OUT.jsonl] [--prompts N] [--budget USD]

The service runs here, on loopback: it answers 429 above its rate, 500 sometimes, and sometimes does
the work and loses the connection. It charges once for an idempotency key, and the program compares
its bill with what the batch says. Needs aiohttp. Stop it and start it again, or start it with a
budget that is too small and then with a larger one.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from taquba import Queue, QueueConfig, RetryAfter
from taquba_bulk import BudgetExceeded, Bulk, BulkContext, JsonlSink, PaidCall

PRICE = 0.002
PER_SECOND = 40
# Faster than the service allows, so that it has something to refuse.
RATE = {"llm": (50, "1s")}
RETRIES = QueueConfig(max_attempts=10, retry_backoff_base=0.1, retry_backoff_max=1)


class Service:
    """What is paid for."""

    def __init__(self) -> None:
        self.bill: dict[str, str] = {}
        self.requests = self.refused = self.failed = self.lost = 0
        self._second = (0, 0)

    async def complete(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self._is_too_fast():
            self.refused += 1
            return web.Response(status=429, headers={"Retry-After": "1"})
        if self.requests % 17 == 0:
            self.failed += 1
            return web.Response(status=500)
        prompt = (await request.json())["prompt"]
        answer = self.bill.setdefault(request.headers["Idempotency-Key"], prompt[::-1])
        await asyncio.sleep(0.02)
        if self.requests % 23 == 0:
            self.lost += 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"text": answer, "usd": PRICE})

    def _is_too_fast(self) -> bool:
        second, count = self._second
        now = int(time.monotonic())
        self._second = (now, count + 1 if now == second else 1)
        return self._second[1] > PER_SECOND


@asynccontextmanager
async def served(service: Service) -> Any:
    app = web.Application()
    app.router.add_post("/complete", service.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/complete"
    finally:
        await runner.cleanup()


class Asks:
    """The pipeline."""

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client = client
        self._url = url

    async def run(self, ctx: BulkContext[str]) -> str:
        async def complete(call: PaidCall) -> str:
            headers = {"Idempotency-Key": call.idempotency_key}
            async with self._client.post(
                self._url, json={"prompt": ctx.input}, headers=headers
            ) as reply:
                if reply.status == 429:
                    # Pauses the rate limit for everybody, and spends neither attempt nor money.
                    raise RetryAfter(float(reply.headers["Retry-After"]), "too many requests")
                reply.raise_for_status()
                answer = await reply.json()
            ctx.record_cost("usd", answer["usd"])
            return str(answer["text"])

        # A lost connection leaves the outcome unknown. The service knows the key, so ask again.
        return await ctx.paid_call("complete", complete, reserve={"usd": 2 * PRICE}, rate="llm")


def prompts(count: int) -> Iterator[str]:
    for number in range(count):
        yield f"prompt {number}"


async def main(store: str, out: str, count: int, budget: float) -> None:
    service = Service()
    async with (
        served(service) as url,
        aiohttp.ClientSession() as client,
        Queue.open(store, default_config=RETRIES) as queue,
    ):
        bulk = Bulk(
            queue,
            Asks(client, url),
            output=JsonlSink(out),
            max_concurrent=30,
            budget={"usd": budget},
            rate=RATE,
        )
        try:
            report = await bulk.run(prompts(count))
        except BudgetExceeded as stopped:
            print(stopped)
            report = stopped.report
    print(
        f"{service.requests} requests: {service.refused} refused, {service.failed} failed, "
        f"{service.lost} lost on the way back"
    )
    print(f"the service has charged {len(service.bill)} calls, {len(service.bill) * PRICE:.3f} usd")
    print(
        f"{report.succeeded} of {count} succeeded, {report.resumed} of them before, "
        f"{report.failed} failed; cost {report.cost.get('usd', 0):.3f} usd, "
        f"{report.spent['usd']:.3f} usd of the budget with calls that failed"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", default="./prompts", help="a folder, made when it is missing")
    parser.add_argument("--out", default="./prompts.jsonl")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--budget", type=float, default=1.0, help="usd")
    options = parser.parse_args()
    asyncio.run(main(options.store, options.out, options.prompts, options.budget))
