from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from taquba import PermanentFailure, Queue
from taquba_jobs import JobContext, JobFailed, JobRunner, job
from tests.cli.support import PATIENCE, Result, finish, start

Gate = threading.Event


@job(name="cli.copy")
def copy(ctx: JobContext[Gate], files: int) -> int:
    ctx.progress(files / 4, files, "a quarter")
    ctx.state.wait(PATIENCE)
    return files


@job(name="cli.crawl")
def crawl(ctx: JobContext[Gate]) -> None:
    ctx.progress(1234567)
    ctx.state.wait(PATIENCE)


@job(name="cli.silent")
def silent(ctx: JobContext[Gate]) -> None:
    ctx.state.wait(PATIENCE)


@job(name="cli.hopeless")
def hopeless(ctx: JobContext[Gate]) -> None:
    raise PermanentFailure("no")


async def taquba(*arguments: str) -> Result:
    return await asyncio.to_thread(lambda: finish(start(*arguments)))


async def test_progress_is_shown_beside_the_owner(tmp_path: Path) -> None:
    gate = Gate()
    store = str(tmp_path / "store")
    async with (
        Queue.open(store) as queue,
        JobRunner(queue, jobs=[copy, crawl, silent, hopeless], state=gate, concurrency=3) as runner,
    ):
        failed = await runner.submit(hopeless)
        with pytest.raises(JobFailed):
            await failed
        copying, crawling, idle = (
            await runner.submit(copy, 200),
            await runner.submit(crawl),
            await runner.submit(silent),
        )
        try:
            async with asyncio.timeout(PATIENCE):
                while not (  # noqa: ASYNC110 - nothing tells of a report
                    await copying.progress() and await crawling.progress()
                ):
                    await asyncio.sleep(0.01)

            listed = await taquba("progress", "-s", store, "--json")
            assert listed.code == 0, listed
            found = {line.pop("id"): line for line in listed.lines}
            assert all(line.pop("reported_at") for line in found.values())
            assert found == {
                copying.id: {"done": 50, "total": 200, "note": "a quarter"},
                crawling.id: {"done": 1234567, "total": None, "note": None},
            }
            header, first, second = (await taquba("progress", "-s", store)).out.splitlines()
            assert header.split() == ["ID", "DONE", "TOTAL", "%", "REPORTED", "NOTE"]
            assert first.split()[:4] == [copying.id, "50", "200", "25"]
            assert first.endswith("a quarter")
            assert second.split()[:2] == [crawling.id, "1,234,567"]

            one = (await taquba("progress", copying.id, "-s", store)).out
            assert "\nstate     running\ndone      50 of 200 (25%)\nnote      a quarter\n" in one
            quiet = (await taquba("progress", idle.id, "-s", store, "--json")).document
            assert quiet == {
                "id": idle.id,
                "state": "running",
                "done": None,
                "total": None,
                "note": None,
                "reported_at": None,
            }
        finally:
            gate.set()
        assert await copying == 200
        await crawling
        await idle
        for handle, state in ((copying, "succeeded"), (failed, "failed")):
            ended = (await taquba("progress", handle.id, "-s", store, "--json")).document
            assert (ended["state"], ended["done"]) == (state, None)
        assert (await taquba("progress", "-s", store, "--json")).out == ""
        unknown = await taquba("progress", "nothing", "-s", store)
        assert (unknown.code, unknown.out) == (4, "")
        assert unknown.err.startswith("taquba: no job with id 'nothing'")
