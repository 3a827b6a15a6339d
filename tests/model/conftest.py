"""What the machines have in common."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from taquba._memory import gate


@pytest.fixture(autouse=True, scope="package")
def suspects_wait() -> Generator[None]:
    """Suspects wait for a process without jobs however long that takes.

    The models know no patience; what it leads to is tested with the suspects themselves.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "_WAITS_MS", 10**12)
        yield
