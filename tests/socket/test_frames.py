"""Frames come out as they went in, however they are cut; what is none is refused."""

from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taquba._line.frames import MAX_BODY, VERSION, BrokenFrame, Frames, TooLarge, frame

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=30)
@given(st.lists(st.lists(VALUES, max_size=3), max_size=4), st.data())
def test_frames_survive_any_cut(bodies: list[list[object]], data: st.DataObject) -> None:
    stream = b"".join(frame(*body) for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    frames = Frames()
    found = [
        body.fields
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for body in frames.feed(stream[start:end])
    ]
    assert found == bodies


@given(st.binary(max_size=64))
def test_anything_else_is_refused_or_waited_for(data: bytes) -> None:
    try:
        for body in Frames().feed(data):
            assert isinstance(body.fields, list)
    except BrokenFrame:
        pass


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (struct.pack(">IB", 1, VERSION + 1), "version"),
        (struct.pack(">IB", MAX_BODY + 1, VERSION), "at most"),
        (struct.pack(">IB", 1, VERSION) + b"\xc1", "MessagePack"),
        (struct.pack(">IB", 1, VERSION) + b"\x07", "array"),
        (struct.pack(">IB", 2000, VERSION) + b"\x91" * 2000, "MessagePack"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, why: str) -> None:
    with pytest.raises(BrokenFrame, match=why):
        list(Frames().feed(data))


def test_a_body_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(TooLarge, match="at most"):
        frame(b"x" * MAX_BODY)
    largest = MAX_BODY - len(msgpack.packb([b"x" * 2**16])) + 2**16
    (body,) = Frames().feed(frame(b"x" * largest))
    assert body.size == MAX_BODY
