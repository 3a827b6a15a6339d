"""What the storage engine no longer needs is removed, for as long as the owner lives."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from taquba._engine import building, engine
from taquba._objects.location import StoreLocation


async def test_old_manifests_of_a_folder_go_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = {
        f"garbage_collector_options.{kind}_options.{name}": "50ms"
        for kind in ("manifest", "compactions")
        for name in ("interval", "min_age")
    }
    monkeypatch.setattr(building, "_SETTINGS", {**building._SETTINGS, **soon})
    opened = await engine.Engine.open(StoreLocation.parse(tmp_path), fsync=False)
    try:
        for _ in range(3):
            manifests = set(os.listdir(tmp_path / "manifest"))
            # Each table that is written makes a manifest, which replaces the former ones.
            await opened.write([(b"key", b"value")])
            await opened._write_tables()
            async with asyncio.timeout(10):
                while manifests & set(os.listdir(tmp_path / "manifest")):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
    finally:
        await opened.close()
