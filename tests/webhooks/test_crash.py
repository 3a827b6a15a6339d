"""A process that is killed between sending and acknowledging: the delivery is made again."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from taquba import Queue, Service
from taquba.testing import drain
from taquba_webhooks import WebhookRequest, WebhookWorker, enqueue_webhook
from tests.webhooks.support import REAL_SECONDS, Received, receiving, response

WORKER = """
import asyncio, sys
from taquba import Queue, run_worker
from taquba_webhooks import WebhookWorker

async def main():
    async with Queue.open(sys.argv[1]) as queue:
        async with WebhookWorker(allow_private_addresses=True) as worker:
            await run_worker(queue, "hooks", worker)

asyncio.run(main())
"""


async def test_a_delivery_that_was_not_acknowledged_is_made_again_with_its_id(
    tmp_path: Path,
) -> None:
    store = str(tmp_path / "store")

    async def hold(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(REAL_SECONDS)

    async def accept(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response("200 OK"))

    async with receiving(hold) as receiver:
        async with Queue.open(store) as queue:
            job = await enqueue_webhook(queue, "hooks", WebhookRequest(receiver.url), b"once")
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, store)
        try:
            await receiver.received(1)
        finally:
            process.kill()
            await process.wait()
        receiver.answer = accept
        async with Queue.open(store) as queue, WebhookWorker(allow_private_addresses=True) as again:
            assert await drain(queue, "hooks", again) == 1
            assert await queue.get_job(job.id) is None
    assert [received.headers["webhook-id"] for received in receiver.requests] == [job.id] * 2
    assert [received.body for received in receiver.requests] == [b"once"] * 2


MEMBER = """
import asyncio, sys
from taquba import WorkerSpec, run_service
from taquba_webhooks import WebhookWorker

async def main():
    async with WebhookWorker(allow_private_addresses=True) as worker:
        await run_service(sys.argv[1], [WorkerSpec("hooks", worker)], role="worker")

asyncio.run(main())
"""


async def test_a_process_that_dies_while_it_delivers_leaves_the_delivery_to_another(
    short_path: Path,
) -> None:
    store = str(short_path / "s")
    hangs = True

    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        if hangs:
            await asyncio.sleep(REAL_SECONDS)
        writer.write(response("200 OK"))

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(sys.executable, "-c", MEMBER, store)

    processes: list[asyncio.subprocess.Process] = []
    async with (
        receiving(answer) as receiver,
        Queue.open(store, inbox=True, producer_socket=True, fsync=False),
        Service(store, role="producer", fsync=False) as service,
    ):
        job = await enqueue_webhook(service, "hooks", WebhookRequest(receiver.url), b"once")
        try:
            processes.append(await start())
            await receiver.received(1)
            hangs = False
            processes[0].kill()
            await processes[0].wait()
            processes.append(await start())
            outcome = await service.wait_for_completion(job.id, REAL_SECONDS)
            assert outcome.completed
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()
    assert [received.headers["webhook-id"] for received in receiver.requests] == [job.id] * 2
