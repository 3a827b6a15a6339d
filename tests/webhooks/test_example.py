"""The example, run as its reader runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "webhooks.py"


def test_the_shop_is_told_of_every_order_though_it_is_down_at_first() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "shop: not now"
    assert sorted(lines[1:-1]) == [f"shop: order {number} is paid" for number in range(5)]
    assert lines[-1] == "told the shop of 5 orders"
