"""The source of a worker loop, and what else runs here, by the handle that was given."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from taquba._interface.store import Store
from taquba._model import validate
from taquba._model.describing import shown
from taquba._model.errors import InvalidArgument
from taquba._model.validate import Duration
from taquba._queue.owner import owner_of
from taquba._worker.own_source import OwnSource
from taquba._worker.source import HasSources, JobSource


def source_of(store: Store, queue: str, lease: Duration | None) -> JobSource:
    """Where a worker loop of a queue takes its jobs from."""
    name = validate.queue_name(queue)
    lease_ms = None if lease is None else validate.duration_ms(lease, "lease", minimum=1)
    if isinstance(store, HasSources):
        return store._job_source(name, lease_ms)  # pyright: ignore[reportPrivateUsage] - shown to this module only
    return OwnSource(owner_of(store), name, lease_ms, store)


def made_for(store: Store, part: object, *, instead_of: object = None) -> None:
    """Note that a part of the program was made for a handle: ``taquba run`` runs it.

    Args:
        store: A handle on a store.
        part: Something with ``run(shutdown)`` or ``async with``; it is not kept.
        instead_of: A part that was made for the handle, and that this one runs itself.
    """
    if isinstance(store, HasSources):
        store._note_part(part, instead_of)  # pyright: ignore[reportPrivateUsage] - shown to this module only


def member_id(store: Store) -> str:
    """Return the name of this process among `Store.members`: the `id` of its `Member`."""
    if isinstance(store, HasSources):
        return store._member_id  # pyright: ignore[reportPrivateUsage] - shown to this module only
    return owner_of(store).about.id


@contextmanager
def only_runner(store: Store, handlers: Mapping[str, object]) -> Generator[None]:
    """Reserve queues for one runner in this process, for the length of a block.

    Args:
        store: An open handle on a store.
        handlers: The handler of each queue, by its name, as given to `run_worker`.

    Raises:
        InvalidArgument: Another runner or worker already serves one of the queues.
    """
    if isinstance(store, HasSources):
        runners, served_by = store._runners, store._handlers  # pyright: ignore[reportPrivateUsage] - shown to this module only
    else:
        owner = owner_of(store)
        runners, served_by = owner.runners, owner.handlers
    for name in handlers:
        for other in served_by(validate.queue_name(name)):
            raise InvalidArgument(
                f"queue {name!r} is already served in this process, by {shown(other)}, "
                "and each would take the other's jobs: give one of them another queue_name"
            )
    runners.update(handlers)
    try:
        yield
    finally:
        for name in handlers:
            runners.pop(name, None)
