"""A durable run of many steps: start it, press Ctrl-C at any moment, start it again.

    python examples/workflow_resume.py [--store FOLDER] [--pages N] [--seconds S]

The run "prints" a book: a step per page, each taking a while, then a wait for the ink to dry that
holds no worker. Every page is printed with the commit that ends its step, so that however often
the program is stopped, and however hard, the book holds each page once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from taquba import Queue, QueueConfig
from taquba_workflow import (
    After,
    Continue,
    RunSpec,
    RunState,
    Step,
    StepOutcome,
    Succeed,
    WorkflowRuntime,
)

RUN_ID = "book"

# By default the run fails when three processes have died in a step that ran alone in them: the step
# may be why.
PATIENT = QueueConfig(max_attempts=100)


class Press:
    def __init__(self, pages: int, seconds: float) -> None:
        self._pages = pages
        self._seconds = seconds

    async def run_step(self, step: Step) -> StepOutcome:
        page = step.step_number + 1
        if page > self._pages:
            return Succeed(b"%d pages" % self._pages)
        again = "" if step.attempts == 1 else ", again"
        print(f"page {page} of {self._pages}{again}", flush=True)
        await asyncio.sleep(self._seconds)
        step.effects.kv_put(f"page/{page:04d}", f"printed in attempt {step.attempts}".encode())
        return Continue(b"", After(self._seconds) if page == self._pages else After(0))


async def main(store: str, pages: int, seconds: float) -> None:
    async with (
        Queue.open(store, queue_configs={"workflow": PATIENT}) as queue,
        WorkflowRuntime(queue, Press(pages, seconds)) as runtime,
    ):
        run = await runtime.submit(RunSpec(b"%d" % pages, run_id=RUN_ID))
        print("a new run" if run.new else "going on where it stopped", flush=True)
        status = await runtime.wait_for_completion(RUN_ID, timeout=24 * 3600)
        assert status is not None
        printed = [entry.key for entry in (await queue.kv_scan("page/", limit=10_000)).entries]
        print(f"{status.state}: {(status.result or b'').decode()}, {len(printed)} in the book")
        assert status.state is RunState.SUCCEEDED
        assert printed == [f"page/{page:04d}" for page in range(1, pages + 1)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", default="./book", help="a folder, made when it is missing")
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.5, help="time that a page takes")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.store, options.pages, options.seconds))
