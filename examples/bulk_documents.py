"""A pipeline over the documents of a folder; stop it at any moment and start it again.

    python examples/bulk_documents.py [FOLDER] [--store STORE] [--out OUT.jsonl] [--seconds S]

Each Markdown file below FOLDER, this repository by default, goes through three phases: it is split
into sections, its links are checked against the files that are there, and its words are counted. A
phase that is done is not done again, however often the program is stopped, and OUT has one row for
each document. A document that has changed is another one to the batch.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from taquba import Queue
from taquba_bulk import Bulk, BulkContext, JsonlSink

HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#]+)")


@dataclass
class Document:
    path: str
    sha256: str


@dataclass
class Digest:
    path: str
    sections: list[str]
    broken_links: list[str]
    words: int
    frequent: list[str]


class Digester:
    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds

    async def run(self, ctx: BulkContext[Document]) -> Digest:
        path = self._folder / ctx.input.path
        text = await asyncio.to_thread(path.read_text, "utf-8")

        async def sections() -> list[str]:
            await asyncio.sleep(self._seconds)
            return HEADING.findall(text)

        async def broken_links() -> list[str]:
            links = LINK.findall(text)
            return await asyncio.to_thread(
                lambda: [link for link in links if not (path.parent / link.strip("<>")).exists()]
            )

        async def words() -> dict[str, int]:
            await asyncio.sleep(self._seconds)
            ctx.record_cost("words", len(text.split()))
            return dict(Counter(re.findall(r"[a-z]{5,}", text.lower())))

        counted = Counter(await ctx.memoized("words", words))
        return Digest(
            ctx.input.path,
            sections=await ctx.memoized("sections", sections),
            broken_links=await ctx.memoized("links", broken_links),
            words=counted.total(),
            frequent=[word for word, _ in counted.most_common(3)],
        )


def documents(folder: Path) -> Iterator[Document]:
    """The inputs, read while the batch goes on."""
    for path in sorted(folder.rglob("*.md")):
        name = path.relative_to(folder)
        if not any(part.startswith((".", "node_modules")) for part in name.parts):
            yield Document(name.as_posix(), sha256(path.read_bytes()).hexdigest())


async def main(folder: Path, store: str, out: str, seconds: float) -> None:
    async with Queue.open(store) as queue:
        bulk = Bulk(queue, Digester(folder, seconds), output=JsonlSink(out), max_concurrent=8)
        report = await bulk.run(documents(folder))
    words = report.cost.get("words", 0)
    print(f"{report.total} documents, {report.resumed} of them done before, {words:,.0f} words")
    print(f"{report.failed} failed, complete: {report.complete}, rows in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--store", default="./documents", help="a folder, made when it is missing")
    parser.add_argument("--out", default="./documents.jsonl")
    parser.add_argument("--seconds", type=float, default=0.05, help="time that a phase takes")
    options = parser.parse_args()
    asyncio.run(main(options.folder, options.store, options.out, options.seconds))
