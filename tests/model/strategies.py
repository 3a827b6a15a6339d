"""What the queue's model test draws from: small pools, so that names collide."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from tests.model.plain_model import Effects, Request, Settings

SECOND = 1000
SETTINGS = {
    # Retries at once, at the old key; keeps nothing that is done.
    "a": Settings(3, 10 * SECOND, 1000, 0, 300 * SECOND, None, 60 * SECOND),
    # Retries after a while; keeps done jobs for a while and dead ones for ever.
    "b": Settings(2, 20 * SECOND, 5, 2 * SECOND, 3 * SECOND, 30 * SECOND, None),
}
queues = st.sampled_from(sorted(SETTINGS))
# One sorts before all generated ids, the others after them.
own_ids = st.sampled_from(["0-own", "own-1", "own-2"])
entry_keys = st.sampled_from([b"x", b"y"])
entry_values = st.sampled_from([b"", b"1", b"2"])
writes = st.lists(st.tuples(entry_keys, entry_values), max_size=2).map(tuple)
picks = st.integers(0, 9)
turns = st.integers(0, 3) | st.integers(0, 40) | st.integers(0, 150)

requests = st.builds(
    Request,
    queue=queues,
    payload=st.binary(max_size=3),
    delay=st.sampled_from([0, 0, 0, SECOND, 5 * SECOND]),
    priority=st.sampled_from([None, None, 0, 5, 2**32 - 1]),
    max_attempts=st.sampled_from([None, None, None, 1, 4]),
    dedup_key=st.sampled_from([None, None, None, "k", "l"]),
    headers=st.sampled_from([(), (("h", "v"),)]),
    job_id=st.none() | st.none() | own_ids,
    entries=writes,
)


def agreeing(requests: Sequence[Request]) -> tuple[Request, ...]:
    """Without what would be refused: two jobs of one commit that write differently to a key."""
    values: dict[bytes, bytes] = {}
    for request in requests:
        for key, value in request.entries:
            values.setdefault(key, value)
    return tuple(
        request._replace(entries=tuple((key, values[key]) for key, _ in request.entries))
        for request in requests
    )


def consistent(effects: Effects) -> Effects:
    """Without what would be refused: a key that is written and deleted, or written differently."""
    effects = effects._replace(requests=agreeing(effects.requests))
    written = {key for request in effects.requests for key, _ in request.entries}
    writes = tuple(entry for entry in effects.writes if entry[0] not in written)
    written.update(key for key, _ in writes)
    deletes = tuple(key for key in effects.deletes if key not in written)
    return effects._replace(writes=writes, deletes=deletes)


plain_requests = requests.map(lambda request: request._replace(job_id=None, dedup_key=None))
effects = st.just(Effects()) | st.builds(
    Effects,
    requests=st.lists(requests, max_size=2).map(tuple),
    writes=writes,
    deletes=st.lists(entry_keys, max_size=1).map(tuple),
).map(consistent)
# What may run at once with others: a failure of its effects would show to them for a moment.
safe_effects = st.just(Effects()) | st.builds(
    Effects,
    requests=st.lists(
        st.tuples(requests, st.sampled_from([None, "k"])).map(
            lambda drawn: drawn[0]._replace(job_id=None, dedup_key=drawn[1])
        ),
        max_size=1,
    ).map(tuple),
    writes=writes,
    deletes=st.lists(entry_keys, max_size=1).map(tuple),
).map(consistent)
cancel_effects = st.just(Effects()) | st.builds(
    Effects,
    requests=st.lists(
        st.tuples(requests, own_ids).map(lambda drawn: drawn[0]._replace(job_id=drawn[1])),
        max_size=1,
    ).map(tuple),
    writes=writes,
    deletes=st.just(()),
).map(consistent)
durations = st.sampled_from([None, None, SECOND, 5 * SECOND, 30 * SECOND])
