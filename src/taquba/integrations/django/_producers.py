"""One producer for each store into which this process enqueues, made on first use."""

from __future__ import annotations

import os
import threading

from taquba.producer import SyncProducer

_turn = threading.Lock()
_producers: dict[str, SyncProducer] = {}


def producer_of(url: str) -> SyncProducer:
    """The producer of this process for a store; may be called from any thread."""
    with _turn:
        if url not in _producers:
            _producers[url] = SyncProducer.open(url)
        return _producers[url]


def _start_anew() -> None:
    """In a forked child: the parent's producers cannot be used, nor a lock that was held."""
    global _turn
    _turn = threading.Lock()
    _producers.clear()


os.register_at_fork(after_in_child=_start_anew)
