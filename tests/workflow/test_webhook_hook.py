"""Ends of runs that are delivered by HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode

import pytest

from taquba import InvalidArgumentType, Queue
from taquba.testing import MockClock, drain
from taquba_webhooks import WebhookWorker
from taquba_workflow import RunSpec, RunState, WebhookTerminalHook, WorkflowRuntime
from tests.webhooks.support import receiving
from tests.workflow.support import Runs, finish
from tests.workflow.test_termination import end_as_told


async def test_ends_are_delivered_to_the_runs_own_url(queue: Queue, mock_clock: MockClock) -> None:
    async with receiving() as receiver:
        hook = WebhookTerminalHook("webhooks")
        async with WorkflowRuntime(queue, Runs(end_as_told), hook=hook) as runtime:
            url = f"{receiver.url}/done"
            for run_id in ("succeed", "fail"):
                spec = RunSpec(run_id.encode(), run_id=run_id, headers={"callback_url": url})
                await runtime.submit(spec)
            await runtime.submit(RunSpec(b"", run_id="quiet"))
            await finish(runtime, "succeed", "fail", "quiet")
            await mock_clock.advance(0)
        async with WebhookWorker(allow_private_addresses=True) as worker:
            assert await drain(queue, "webhooks", worker) == 2
        told = {}
        for request in receiver.requests:
            assert (request.method, request.target) == ("POST", "/done")
            assert request.headers["content-type"] == "application/json"
            body = json.loads(request.body)
            told[body["run_id"]] = body
    assert b64decode(told["succeed"].pop("result")) == b"result"
    assert told["succeed"] == {
        "run_id": "succeed",
        "state": "succeeded",
        "step_number": 1,
        "reason": None,
        "ended_at": mock_clock.now().isoformat(),
    }
    assert (told["fail"]["state"], told["fail"]["reason"]) == ("failed", "no stöck")
    assert told["fail"]["result"] is None


async def test_a_url_that_cannot_be_used_becomes_a_dead_letter_and_the_run_ends(
    queue: Queue, mock_clock: MockClock
) -> None:
    hook = WebhookTerminalHook("webhooks")
    async with WorkflowRuntime(queue, Runs(end_as_told), hook=hook) as runtime:
        spec = RunSpec(b"x", run_id="r", headers={"callback_url": "ftp://example.org"})
        await runtime.submit(spec)
        (status,) = await finish(runtime, "r")
        await mock_clock.advance(0)
    assert status.state is RunState.SUCCEEDED
    (dead,) = (await queue.dead_jobs("workflow.termination")).jobs
    assert "the end of run 'r' cannot be delivered" in (dead.last_error or "")
    assert (await queue.stats("webhooks")).pending == 0


def test_the_queue_has_a_name() -> None:
    with pytest.raises(InvalidArgumentType, match="queue_name"):
        WebhookTerminalHook(None)  # type: ignore[arg-type]


def test_webhooks_are_loaded_only_for_those_who_want_them() -> None:
    program = (
        "import sys, taquba_workflow as w\n"
        "assert not {'httpx', 'taquba_webhooks'} & sys.modules.keys()\n"
        "sys.modules['taquba_webhooks'] = None\n"
        "try: w.WebhookTerminalHook('q')\n"
        "except ImportError as error: assert 'taquba-workflow[webhooks]' in str(error)\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-I", "-W", "error", "-c", program], check=True, timeout=60)
