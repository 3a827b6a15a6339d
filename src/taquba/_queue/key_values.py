"""Caller-owned entries: a small key-value space beside the jobs, with compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping

from taquba._engine.reads import Reads
from taquba._model import keys, validate
from taquba._model.errors import EntryChanged
from taquba._model.records import K, KvEntry, KvPage, UnreadableRecord
from taquba._model.validate import KvKey
from taquba._queue.in_slices import in_slices
from taquba._queue.listings import MAX_PAGE, decode_cursor, encode_cursor
from taquba._queue.owner import Owner
from taquba._store.transaction import Transaction


async def get(reads: Reads, key: KvKey) -> bytes | None:
    return await reads.get(keys.user(validate.kv_key(key)))


async def write(owner: Owner, key: KvKey, value: bytes | None) -> None:
    """Put an entry, or delete it if the value is None; durable when it returns."""
    name = validate.kv_key(key)
    if value is not None:
        validate.kv_value(key, value)
    transaction = Transaction()
    if owner.locks.any_held([("kv", name)]):
        locks = await owner.lock([("kv", name)])
        transaction.finally_(locks.release)
    transaction.ops.append((keys.user(name), value))
    await owner.committer.submit(transaction, durable=True)


async def compare_write(
    owner: Owner, key: KvKey, expected: bytes | None, value: bytes | None
) -> bool:
    """Write only if the entry is `expected` (None: absent); durable when it returns."""
    name = validate.kv_key(key)
    if value is not None:
        validate.kv_value(key, value)
    if expected is not None:
        validate.kv_value(key, expected)
    transaction = Transaction()
    locks = await owner.lock([("kv", name)])
    transaction.finally_(locks.release)
    try:
        await check(owner, {name: expected})
    except EntryChanged:
        transaction.abandon()
        await until_durable(owner, name)
        return False
    except BaseException:
        transaction.abandon()
        raise
    transaction.ops.append((keys.user(name), value))
    await owner.committer.submit(transaction, durable=True)
    return True


async def check(owner: Owner, expected: Mapping[bytes, bytes | None]) -> None:
    """Make sure that entries, whose locks are held, are as expected; None stands for absent.

    Raises:
        EntryChanged: One of them is different; perhaps not durably.
    """
    # Writes decided before the locks were taken must be visible to the reads.
    await owner.committer.barrier()

    async def is_other(name: bytes) -> bool:
        return await owner.engine.get(keys.user(name)) != expected[name]

    names = list(expected)
    found = await in_slices(is_other, names)
    if True in found:
        raise EntryChanged(names[found.index(True)])


async def until_durable(owner: Owner, name: bytes) -> None:
    """Wait until the value of an entry, or its absence, is durable."""
    await owner.committer.until_durable(keys.user(name))


async def scan(reads: Reads, prefix: K, cursor: str | None, limit: int) -> KvPage[K]:
    validate.integer(limit, "limit", 1, MAX_PAGE)
    as_text = isinstance(prefix, str)
    raw = validate.utf8(prefix, "prefix") if isinstance(prefix, str) else prefix
    validate.instance(raw, bytes, "prefix")
    space = keys.user(raw)
    start = space if cursor is None else decode_cursor(cursor, space)
    rows = await reads.read_range(
        start, keys.prefix_end(space), limit + 1, after=cursor is not None
    )
    entries: list[KvEntry[K]] = []
    unreadable: list[UnreadableRecord] = []
    for key, value in rows[:limit]:
        name = key[len(keys.USER) :]
        try:
            entries.append(KvEntry(name.decode() if as_text else name, value))  # type: ignore[arg-type]
        except UnicodeDecodeError:
            why = f"the key {name!r} is not text: scan with a bytes prefix, or delete it"
            unreadable.append(UnreadableRecord(name=repr(name), key=name, reason=why))
    more = len(rows) > limit
    cursor = encode_cursor(rows[limit - 1][0]) if more else None
    return KvPage(entries, cursor, tuple(unreadable))
