"""A proxy that hands requests on to an object store, with faults; see `FaultyProxy`.

    python proxy_child.py UPSTREAM SEED

Prints where it listens, and runs until its standard input closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import sys
from pathlib import Path

from aiohttp import ClientSession, TCPConnector, web
from yarl import URL

# Started as a script: the folder above `tests` is not on the path.
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.servers.faults import Count, Faults, kind_of

FIRST_KEY = re.compile(rb"<Key>([^<]*)</Key>")
MOST_BODY = 256 * 1024 * 1024

# Of one connection, not of the message; and what the client session writes by itself.
NOT_PASSED_ON = {
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


def answer(status: int, code: str) -> web.Response:
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code></Error>' if code else "try later"
    headers = {"x-ms-error-code": code} if code else None
    return web.Response(status=status, text=text, headers=headers)


class Proxy:
    def __init__(self, upstream: str, seed: int, session: ClientSession) -> None:
        self.origin = str(URL(upstream).origin())
        self.session = session
        self.random = random.Random(seed)
        self.counts: dict[tuple[str, str], list[int]] = {}
        self.faults = Faults()
        self.struck = 0
        self.burst: list[str] = []
        self.changed = asyncio.Event()

    # -- control ----------------------------------------------------------------------------

    async def inject(self, request: web.Request) -> web.Response:
        self.faults = Faults(**await request.json())
        self.struck = 0
        self.burst.clear()
        self.changed.set()
        self.changed = asyncio.Event()
        return web.Response()

    async def tell(self, request: web.Request) -> web.Response:
        return web.json_response([Count(*key, *row) for key, row in self.counts.items()])

    async def clear(self, request: web.Request) -> web.Response:
        self.counts.clear()
        return web.Response()

    # -- requests ---------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        arrived = asyncio.get_running_loop().time()
        faults, changed = self.faults, self.changed
        body = await request.read()
        method, kind = classify(request, body)
        fault = self.draw(method, kind)
        count = self.counts.setdefault((method, kind), [0, 0, 0, 0])
        count[0] += 1
        count[1] += fault is not None
        count[2] += len(body)
        reply = None
        if fault not in ("refuse", "reset", "hang"):
            reply = await self.forward(request, body)
            count[3] += len(reply.body)
        late = arrived + faults.latency_ms / 1000 - asyncio.get_running_loop().time()
        if late > 0:
            await asyncio.sleep(late)
        if fault is None:
            return reply
        if fault == "refuse":
            return answer(*faults.refusal)
        if fault == "fail_reply":
            return answer(*faults.failure)
        if fault in ("hang", "hang_reply"):
            await changed.wait()
        reset(request)
        return web.Response()

    def draw(self, method: str, kind: str) -> str | None:
        """The fault that strikes this request."""
        faults = self.faults
        if not faults.match(method, kind):
            return None
        if faults.limit is not None and self.struck >= faults.limit:
            return None
        if not self.burst:
            point = self.random.random()
            for name, share in faults.shares():
                if point < share:
                    self.burst = [name] * faults.burst
                    break
                point -= share
            else:
                return None
        self.struck += 1
        return self.burst.pop()

    async def forward(self, request: web.Request, body: bytes) -> web.Response:
        async with self.session.request(
            request.method,
            URL(self.origin + request.raw_path, encoded=True),
            headers=passed_on(request.headers),
            data=body,
            allow_redirects=False,
        ) as answer:
            reply = web.Response(
                status=answer.status,
                reason=answer.reason,
                headers=passed_on(answer.headers),
                body=await answer.read(),
            )
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                reply.headers["Content-Length"] = answer.headers["Content-Length"]
            return reply


def passed_on(headers) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in NOT_PASSED_ON]


def classify(request: web.Request, body: bytes) -> tuple[str, str]:
    if "delete" in request.query and (first := FIRST_KEY.search(body)):
        # S3 deletes many objects with one POST; they are of one kind.
        return "DELETE", kind_of(first[1].decode())
    if "list-type" in request.query or request.query.get("comp") == "list":
        return "LIST", kind_of(request.query.get("prefix", ""))
    return request.method, kind_of(request.path)


def reset(request: web.Request) -> None:
    """End the connection with RST, not FIN: what a client sees when a server dies."""
    transport = request.transport
    if transport is None:
        return
    with contextlib.suppress(OSError):
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    transport.abort()


async def main(upstream: str, seed: int) -> None:
    connector = TCPConnector(limit=0, force_close=True)
    async with ClientSession(
        connector=connector, auto_decompress=False, skip_auto_headers=NOT_ADDED
    ) as session:
        proxy = Proxy(upstream, seed, session)
        app = web.Application(client_max_size=MOST_BODY)
        # No bucket and no account has this name.
        app.router.add_put("/-/faults", proxy.inject)
        app.router.add_get("/-/counts", proxy.tell)
        app.router.add_delete("/-/counts", proxy.clear)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        print(f"http://{host}:{port}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
