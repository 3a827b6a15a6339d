"""What the machines have in common."""

from __future__ import annotations

import pytest

from taquba._memory import gate


@pytest.fixture(autouse=True)
def suspects_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suspects wait for a process without jobs however long that takes.

    The models know no patience; what it leads to is tested with the suspects themselves.
    """
    monkeypatch.setattr(gate, "_WAITS_MS", 10**12)
