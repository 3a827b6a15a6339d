from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.support import Taquba, make_store


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "store"
    make_store(folder)
    return folder


@pytest.fixture
def store(made_store: Path, tmp_path: Path) -> Path:
    """A store of this test's own, as `make_store` makes it."""
    folder = tmp_path / "store"
    shutil.copytree(made_store, folder)
    return folder


@pytest.fixture
def taquba(capsys: pytest.CaptureFixture[str], store: Path) -> Taquba:
    return Taquba(capsys, store)
