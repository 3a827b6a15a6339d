"""Tell a shop that its orders were paid, through a receiver that is down at first.

    python examples/webhooks.py

Both sides run here: a receiver on loopback that answers 503 to the first delivery, and a queue
with two worker loops. The payment and the news of it are one commit, so neither is there without
the other, and the receiver leaves out what it has seen already.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets

from taquba import JobRecord, LeaseHandle, Queue, SettlementEffects, run_worker
from taquba_webhooks import WebhookRequest, WebhookWorker, webhook_enqueue_request

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


class Shop:
    """The receiver: a small HTTP server that verifies signatures."""

    def __init__(self, orders: int) -> None:
        self.paid: dict[str, int] = {}
        self.all_paid = asyncio.Event()
        self._orders = orders
        self._down = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = (line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        headers = {name.lower(): value for name, value in fields}
        body = await reader.readexactly(int(headers["content-length"]))
        status = self.take(headers, body)
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    def take(self, headers: dict[str, str], body: bytes) -> str:
        if self._down:
            self._down = False
            print("shop: not now")
            return "503 Service Unavailable\r\nRetry-After: 1"
        if not self.signed(headers, body):
            return "401 Unauthorized"
        delivery, order = headers["webhook-id"], json.loads(body)["order"]
        if delivery not in self.paid:
            self.paid[delivery] = order
            print(f"shop: order {order} is paid")
        if len(self.paid) == self._orders:
            self.all_paid.set()
        return "204 No Content"

    @staticmethod
    def signed(headers: dict[str, str], body: bytes) -> bool:
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        digest = hmac.digest(key, content, hashlib.sha256)
        expected = "v1," + base64.b64encode(digest).decode()
        return hmac.compare_digest(expected, headers["webhook-signature"])


async def main(orders: int = 5) -> None:
    shop = Shop(orders)
    server = await asyncio.start_server(shop.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/paid"

    async def pay(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        news = webhook_enqueue_request(
            "webhooks",
            WebhookRequest(url, headers={"Content-Type": "application/json"}, timeout=5),
            json.dumps({"order": int(job.payload)}).encode(),
        )
        return SettlementEffects(enqueues=[news], kv_writes={f"paid/{job.id}": job.payload})

    async with (
        Queue.open("memory://") as queue,
        # The shop is on this machine; one on the internet needs no permission.
        WebhookWorker(signing_secret=SECRET, allow_private_addresses=True) as webhooks,
        asyncio.TaskGroup() as workers,
    ):
        stop = shop.all_paid
        workers.create_task(run_worker(queue, "payments", pay, shutdown=stop))
        workers.create_task(run_worker(queue, "webhooks", webhooks, concurrency=10, shutdown=stop))
        for order in range(orders):
            await queue.enqueue("payments", str(order).encode())
    server.close()
    print(f"told the shop of {len(shop.paid)} orders")


if __name__ == "__main__":
    asyncio.run(main())
