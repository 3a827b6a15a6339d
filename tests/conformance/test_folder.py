from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.suite import StoreConformance


class TestFolder(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return str(tmp_path / "a store")
