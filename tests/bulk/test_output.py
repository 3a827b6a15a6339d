"""The output file: what is refused, what is cut off, what is written anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from taquba import InvalidArgument, Queue, StoreError
from taquba_bulk import Bulk, BulkContext, JsonlSink
from tests.bulk.support import rows_of


class Counting:
    def __init__(self) -> None:
        self.ran = 0

    async def run(self, ctx: BulkContext[int]) -> int:
        self.ran += 1
        return ctx.input


async def test_a_file_of_somebody_else_is_refused(queue: Queue, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine\n")
    with pytest.raises(InvalidArgument, match=r"out\.jsonl has content"):
        await Bulk(queue, Counting(), output=JsonlSink(out)).run([1])
    assert out.read_text() == "mine\n"
    assert await queue.list_queues() == []


async def test_a_folder_that_is_missing_is_named(queue: Queue, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"none/out\.jsonl: No such file"):
        await Bulk(queue, Counting(), output=JsonlSink(tmp_path / "none" / "out.jsonl")).run([1])


@pytest.mark.parametrize("change", ["changed", "cut"])
async def test_an_output_that_was_changed_is_refused(
    queue: Queue, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out.jsonl"
    bulk = Bulk(queue, Counting(), output=JsonlSink(out))
    await bulk.run(range(3))
    content = out.read_bytes()
    out.write_bytes(content[:-2] + b"!\n" if change == "changed" else content[:-1])
    with pytest.raises(InvalidArgument, match="not as this batch left it"):
        await bulk.run(range(3))


async def test_what_was_written_behind_the_last_position_is_cut_off(
    queue: Queue, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    bulk = Bulk(queue, Counting(), output=JsonlSink(out))
    await bulk.run(range(3))
    with out.open("ab") as file:
        file.write(b'{"index": 7')
    await bulk.run(range(4))
    assert [row["output"] for row in rows_of(out)] == [0, 1, 2, 3]


async def begun(queue: Queue, out: Path) -> Bulk[int, int]:
    """A batch that has not written a row yet: its first input could not be read."""

    def inputs() -> Iterator[int]:
        raise RuntimeError("no input")
        yield 0

    bulk = Bulk(queue, Counting(), output=JsonlSink(out))
    with pytest.raises(RuntimeError, match="no input"):
        await bulk.run(inputs())
    return bulk


@pytest.mark.parametrize("content", ["mine\n", '{"index": 0, "of": "another batch"}\n'])
async def test_a_file_of_somebody_else_is_refused_by_a_batch_that_wrote_no_row_yet(
    queue: Queue, tmp_path: Path, content: str
) -> None:
    await begun(queue, tmp_path / "first.jsonl")
    out = tmp_path / "out.jsonl"
    out.write_text(content)
    with pytest.raises(InvalidArgument, match="did not write"):
        await Bulk(queue, Counting(), output=JsonlSink(out)).run(range(3))
    assert out.read_text() == content


@pytest.mark.parametrize("content", ['{"in', '{"index": 0, "key": "x"}\n'])
async def test_rows_that_were_written_before_any_position_are_cut_off(
    queue: Queue, tmp_path: Path, content: str
) -> None:
    out = tmp_path / "out.jsonl"
    bulk = await begun(queue, out)
    out.write_text(content)
    await bulk.run(range(3))
    assert [row["output"] for row in rows_of(out)] == [0, 1, 2]


async def test_an_output_may_be_another_empty_file_while_no_row_is_written(
    queue: Queue, tmp_path: Path
) -> None:
    await begun(queue, tmp_path / "first.jsonl")
    out = tmp_path / "out.jsonl"
    out.touch()
    await Bulk(queue, Counting(), output=JsonlSink(out)).run(range(3))
    assert [row["output"] for row in rows_of(out)] == [0, 1, 2]


@pytest.mark.parametrize("name", ["out.jsonl", "other.jsonl"])
async def test_an_output_that_is_gone_is_written_anew_without_running_anything(
    queue: Queue, tmp_path: Path, name: str
) -> None:
    counting = Counting()
    out = tmp_path / "out.jsonl"
    await Bulk(queue, counting, output=JsonlSink(out)).run(range(5))
    before = rows_of(out)
    out.unlink()
    again = tmp_path / name
    report = await Bulk(queue, counting, output=JsonlSink(again)).run(range(5))
    assert rows_of(again) == before
    assert (counting.ran, report.succeeded) == (5, 5)


async def test_a_full_disk_ends_the_batch_and_nothing_is_lost(queue: Queue, tmp_path: Path) -> None:
    counting = Counting()
    with pytest.raises(StoreError, match="/dev/full: No space left"):
        await Bulk(queue, counting, output=JsonlSink("/dev/full")).run(range(5))
    out = tmp_path / "out.jsonl"
    await Bulk(queue, counting, output=JsonlSink(out)).run(range(5))
    assert [row["output"] for row in rows_of(out)] == [0, 1, 2, 3, 4]
    assert counting.ran == 5


async def test_an_output_can_be_added_to_a_batch_that_had_none(
    queue: Queue, tmp_path: Path
) -> None:
    counting = Counting()
    await Bulk(queue, counting).run(range(5))
    out = tmp_path / "out.jsonl"
    await Bulk(queue, counting, output=JsonlSink(out)).run(range(5))
    assert [row["output"] for row in rows_of(out)] == [0, 1, 2, 3, 4]
    assert counting.ran == 5


async def test_rows_follow_the_inputs_of_each_run(queue: Queue, tmp_path: Path) -> None:
    counting = Counting()
    out = tmp_path / "out.jsonl"
    await Bulk(queue, counting, output=JsonlSink(out)).run([1, 2, 3])
    # Another order, and one more in front: what has ended is known by its content.
    report = await Bulk(queue, counting, output=JsonlSink(out)).run([4, 3, 2, 1])
    assert (report.resumed, counting.ran) == (3, 4)
    assert sorted(row["output"] for row in rows_of(out)) == [1, 2, 3, 4]
