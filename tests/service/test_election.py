"""One of the candidates is elected, and another when that one is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taquba import Queue
from taquba._objects.candidates import stand_for
from taquba._objects.election import Election
from taquba._objects.election_in_bucket import Seen, Watch
from taquba._objects.location import StoreLocation
from tests.servers.faults import Faults
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import S3Server

CHILD = Path(__file__).with_name("candidate_child.py")
ROOT = Path(__file__).parents[2]
TAKEOVER = 2.0
"""Long enough for a server on a busy machine to answer in time."""
PATIENCE = 20


@pytest.fixture(params=["folder", "S3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    return on_s3(request, tmp_path, monkeypatch)


@pytest.fixture
def bucket_url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    return on_s3(request, tmp_path, monkeypatch)


def on_s3(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment(server.endpoint).items():
        monkeypatch.setenv(name, value)
    return f"{server.root}{tmp_path}"


def candidate(url: str) -> Election:
    return stand_for(StoreLocation.parse(url), TAKEOVER)


@contextlib.asynccontextmanager
async def child(url: str, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CHILD),
        url,
        str(TAKEOVER),
        *options,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def said(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
    return line.decode().partition(" ")[0]


async def test_one_of_many_is_elected_and_the_next_when_it_resigns(url: str) -> None:
    candidates = [candidate(url) for _ in range(4)]
    standing = {asyncio.create_task(one.win()): one for one in candidates}
    while standing:
        winners, _ = await asyncio.wait(
            standing, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        (winner,) = winners
        winner.result()
        elected = standing.pop(winner)
        if len(standing) == 3:
            # Longer than it takes to be given up for dead: it gives signs of life by itself.
            done, _ = await asyncio.wait(standing, timeout=1.3 * TAKEOVER)
            assert not done
        await elected.resign()


async def test_who_resigned_can_stand_again(url: str) -> None:
    election = candidate(url)
    for _ in range(3):
        await asyncio.wait_for(election.win(), PATIENCE)
        await election.resign()
        await election.resign()


async def test_who_stops_waiting_is_not_elected(url: str) -> None:
    first, second, third = candidate(url), candidate(url), candidate(url)
    await first.win()
    waiting = asyncio.create_task(second.win())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await second.resign()
    await first.resign()
    await asyncio.wait_for(third.win(), PATIENCE)
    await third.resign()


async def test_another_is_elected_when_the_elected_process_is_killed(url: str) -> None:
    async with child(url, "fork") as process:
        assert await said(process) == "elected"
        heir = candidate(url)
        waiting = asyncio.create_task(heir.win())
        done, _ = await asyncio.wait([waiting], timeout=1.2 * TAKEOVER)
        assert not done
        killed_at = time.monotonic()
        process.kill()
        await asyncio.wait_for(waiting, PATIENCE)
        # Generous on a busy machine; what matters is that nobody has to wait for the fork.
        assert time.monotonic() - killed_at < 10 * TAKEOVER
        await heir.resign()


async def test_who_was_suspended_finds_that_another_was_elected(bucket_url: str) -> None:
    async with child(bucket_url) as process:
        assert await said(process) == "elected"
        process.send_signal(signal.SIGSTOP)
        heir = candidate(bucket_url)
        await asyncio.wait_for(heir.win(), PATIENCE)
        process.send_signal(signal.SIGCONT)
        assert await said(process) == "lost"
        await heir.resign()


async def test_a_lost_answer_costs_nobody_the_lease(
    bucket_url: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FaultyProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT", proxy.endpoint)
        election = candidate(bucket_url)
        await proxy.inject(Faults(lose_reply=0.5))
        await asyncio.wait_for(election.win(), PATIENCE)
        losing = asyncio.create_task(election.lost())
        await proxy.clear_counts()
        for _ in range(1000):
            if (await proxy.counts()).of(method="PUT").requests >= 6:
                break
            await asyncio.sleep(TAKEOVER / 10)
        assert not losing.done()
        await proxy.calm()
        await election.resign()
        losing.cancel()


async def test_who_cannot_reach_the_bucket_is_replaced_and_told_later(
    bucket_url: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FaultyProxy(s3_server.endpoint) as proxy:
        cut_off, heir = candidate(bucket_url), candidate(bucket_url)
        monkeypatch.setenv("AWS_ENDPOINT", proxy.endpoint)
        await cut_off.win()
        monkeypatch.setenv("AWS_ENDPOINT", s3_server.endpoint)
        await proxy.inject(Faults(refuse=1))
        await asyncio.wait_for(heir.win(), PATIENCE)
        await proxy.calm()
        await asyncio.wait_for(cut_off.lost(), PATIENCE)
        await cut_off.resign()
        await heir.resign()


async def test_an_owner_that_was_not_elected_is_left_alone_in_a_folder(tmp_path: Path) -> None:
    election = candidate(str(tmp_path))
    async with Queue.open(tmp_path):
        waiting = asyncio.create_task(election.win())
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
    await asyncio.wait_for(waiting, PATIENCE)
    await election.resign()


async def test_a_folder_that_was_removed_and_made_again_has_elections_of_its_own(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "store"
    before, after = candidate(str(folder)), candidate(str(folder))
    await before.win()
    waiting = asyncio.create_task(after.win())
    await asyncio.sleep(0)
    await asyncio.to_thread((folder / "election.lock").unlink)
    await asyncio.wait_for(waiting, PATIENCE)
    await before.resign()
    await after.resign()


def test_only_a_lease_that_did_not_change_for_long_is_taken_over() -> None:
    watch = Watch(5)
    first = Seen({"e_tag": "1"}, "somebody")
    second = Seen({"e_tag": "2"}, "somebody")
    assert not watch.may_take(first, 100)
    assert not watch.may_take(first, 104.9)
    assert not watch.may_take(second, 105.1)
    # This candidate was suspended meanwhile; the holder was not.
    assert not watch.may_take(first, 200)
    assert watch.may_take(first, 205)
    assert Watch(5).may_take(Seen({"e_tag": "1"}, None), 0)
