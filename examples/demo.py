"""Process a tree of files, kill the worker half-way, resume, and count what happened.

    python examples/demo.py [folder] [--store FOLDER] [--jobs N]

Every file becomes a job: hash it and count its words. The worker is a process of its own. It is
killed with SIGKILL while jobs are in flight, and a second one finishes. All numbers printed at the
end are read from the store, and every result is compared with the file it is about.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

from taquba import (
    EnqueueRequest,
    JobRecord,
    LeaseHandle,
    Queue,
    SettlementEffects,
    TaqubaError,
    run_worker,
)

QUEUE = "files"
CONCURRENCY = 16
HELD = 4  # jobs that are at work for certain when the first worker is killed
BATCH = 1000
SKIPPED = {".git", ".venv"}


# -- the worker process ------------------------------------------------------------------------


async def work(store: str, hold_after: int, hold: int) -> None:
    """Work until the queue is empty; tell the parent about progress, a line each time.

    The handlers of `hold` jobs, after the first `hold_after`, wait for the kill that is to come.
    """
    started = held = 0

    async def process(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        nonlocal started, held
        started += 1
        if hold_after < started <= hold_after + hold:
            # Nobody waits for a claim to be on disk, so a kill right after it undoes it. This
            # write is waited for, and it carries all earlier commits along.
            await queue.kv_put(f"held/{job.id}", b"")
            held += 1
            await asyncio.sleep(60)
        await report()
        result = await asyncio.to_thread(measure, os.fsdecode(job.payload))
        # The result lands in the same commit as the job's end: both or neither. Its key is unique
        # to this run of the handler, so a job that ended twice would leave two results.
        # What was interrupted by the kill says so, though it spent no attempt.
        delivery = "first" if job.last_error is None else "again"
        key = f"result/{job.id}/{delivery}/{uuid.uuid4().hex}"
        return SettlementEffects(kv_writes={key: json.dumps(result).encode()})

    async def report() -> int:
        stats = await queue.stats(QUEUE)
        try:
            print("progress", stats.done, held, flush=True)
        except BrokenPipeError:
            os._exit(1)  # the parent is gone; the store takes no harm from a sudden end
        return stats.pending + stats.scheduled + stats.claimed

    async with Queue.open(store) as queue, asyncio.TaskGroup() as group:
        done = asyncio.Event()
        worker = group.create_task(
            run_worker(queue, QUEUE, process, concurrency=CONCURRENCY, shutdown=done)
        )
        while await report():
            await asyncio.wait({worker}, timeout=0.01)
        done.set()


def measure(path: str) -> dict[str, Any]:
    """What a job finds out about its file, in constant memory."""
    digest = hashlib.sha256()
    words = 0
    in_word = False
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                # A word that began in the chunk before was counted there.
                words += len(chunk.split()) - (in_word and not chunk[:1].isspace())
                in_word = not chunk[-1:].isspace()
    except OSError as error:
        # It vanished since it was listed. That is a result too: no retry would help.
        return {"path": path, "error": error.strerror}
    return {
        "path": path,
        "sha256": digest.hexdigest(),
        "words": words,
        "version": [status.st_size, status.st_mtime_ns],
    }


# -- the parent process ------------------------------------------------------------------------


def list_files(folder: str, limit: int | None) -> list[str]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - SKIPPED)
        for name in sorted(names):
            path = os.path.join(parent, name)
            if is_readable_file(path):
                files.append(path)
    return files[:limit]


def is_readable_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) and os.access(path, os.R_OK)
    except OSError:
        return False


async def enqueue(store: str, files: list[str]) -> dict[str, str]:
    """One job per file; returns the path of each job by its id."""
    paths: dict[str, str] = {}
    async with Queue.open(store) as queue:
        if await queue.list_queues():
            raise SystemExit(f"{store} holds jobs already; give another --store")
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            # A file name is bytes, not text: fsencode keeps also what is not valid UTF-8.
            results = await queue.enqueue_batch(
                EnqueueRequest(QUEUE, os.fsencode(path)) for path in batch
            )
            paths.update(zip((result.id for result in results), batch, strict=True))
    return paths


def run_worker_process(store: str, jobs: int, *, kill: bool) -> float:
    """Run a worker to its end, or kill it mid-way; returns the seconds for which it worked."""
    command = [sys.executable, __file__, "--worker", "--store", store]
    hold = min(HELD, jobs // 2) if kill else 0
    if kill:
        command += ["--hold-after", str(jobs // 2), "--hold", str(hold)]
    started = settled = 0
    # In a group of its own the worker does not get a terminal's Ctrl-C; it is ended below.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, encoding="utf-8", process_group=0
    ) as worker:
        assert worker.stdout is not None
        try:
            for line in worker.stdout:
                if not started:
                    started = time.monotonic()
                    print(f"worker {worker.pid}: started", flush=True)
                settled, held = map(int, line.split()[1:])
                # Its other handlers go on at full speed meanwhile: the kill hits them, too.
                if kill and settled >= jobs // 2 and held == hold:
                    worker.send_signal(signal.SIGKILL)
                    break
            seconds = time.monotonic() - started
        except BaseException:
            worker.kill()
            raise
    if worker.returncode != (-signal.SIGKILL if kill else 0):
        raise SystemExit(f"worker {worker.pid} ended by itself with code {worker.returncode}")
    print(f"worker {worker.pid}: {'killed' if kill else 'finished'} after {settled} of {jobs} jobs")
    return seconds


async def count(store: str, paths: dict[str, str], seconds: float) -> bool:
    """Read from the store what happened, check it, print it; False when something is wrong."""
    async with Queue.open(store) as queue:
        stats = await queue.stats(QUEUE)
        deliveries: dict[str, list[str]] = defaultdict(list)
        found: dict[str, dict[str, Any]] = {}
        cursor = None
        while True:
            page = await queue.kv_scan("result/", cursor, limit=BATCH)
            for key, value in page.entries:
                _, job_id, delivery, _ = key.split("/")
                deliveries[job_id].append(delivery)
                found[job_id] = json.loads(value)
            cursor = page.next_cursor
            if cursor is None:
                break

    same = changed = wrong = 0
    for job_id, result in found.items():
        now = measure(paths.get(job_id, ""))
        if now == result:
            same += 1
        elif now.get("version") != result.get("version"):
            changed += 1  # the file is not the one that was hashed
        else:
            wrong += 1

    left = stats.pending + stats.scheduled + stats.claimed + stats.dead
    redelivered = sum("again" in found_as for found_as in deliveries.values())
    lost = sum(job_id not in found for job_id in paths)
    # Counted twice, independently: by results per job, and by the queue's own counter.
    twice = max(sum(len(found_as) > 1 for found_as in deliveries.values()), stats.done - len(paths))
    print(f"jobs          {len(paths):8}")
    print(f"redelivered   {redelivered:8}")
    print(f"lost          {lost:8}")
    print(f"settled twice {twice:8}")
    print(f"jobs/s        {len(paths) / seconds if seconds else 0:8.0f}")
    print(f"results equal to a new look at the files: {same}; files changed since: {changed}")
    if wrong or left:
        print(f"wrong results: {wrong}; unfinished or dead jobs: {left}")
    return not (lost or twice or wrong or left)


def demo(folder: str, store: str, limit: int | None) -> bool:
    files = list_files(folder, limit)
    print(f"{len(files)} files of {folder}, store {store}")
    paths = asyncio.run(enqueue(store, files))
    seconds = 0.0
    if len(files) > 1:  # a single job has no mid-way
        seconds += run_worker_process(store, len(files), kill=True)
    seconds += run_worker_process(store, len(files), kill=False)
    return asyncio.run(count(store, paths, seconds))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    repository = Path(__file__).parent.parent
    parser.add_argument("folder", nargs="?", default=str(repository), help="tree to process")
    parser.add_argument("--store", help="folder of the store, kept; default: a temporary one")
    parser.add_argument("--jobs", type=int, metavar="N", help="process the first N files only")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--hold-after", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--hold", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    # A path may hold what the terminal's encoding does not have.
    sys.stdout.reconfigure(errors="backslashreplace")
    if arguments.worker:
        asyncio.run(work(arguments.store, arguments.hold_after, arguments.hold))
        return 0
    folder = os.path.abspath(arguments.folder)
    if not os.path.isdir(folder):
        parser.error(f"{folder} is not a folder")
    if arguments.jobs is not None and arguments.jobs < 0:
        parser.error(f"--jobs must not be negative; got {arguments.jobs}")
    try:
        if arguments.store is not None:
            return 0 if demo(folder, os.path.abspath(arguments.store), arguments.jobs) else 1
        with tempfile.TemporaryDirectory(
            prefix="taquba-demo-", ignore_cleanup_errors=True
        ) as store:
            return 0 if demo(folder, store, arguments.jobs) else 1
    except TaqubaError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
