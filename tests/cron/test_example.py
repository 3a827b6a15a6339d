from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "cron_reports.py"

OUTPUT = """\
weekday  Tue 05 Mar 02:30 EST
weekday  Wed 06 Mar 02:30 EST
weekday  Thu 07 Mar 02:30 EST
weekday  Fri 08 Mar 02:30 EST
weekly   Sun 10 Mar 03:00 EDT
weekday  Mon 11 Mar 02:30 EDT
weekday  Tue 12 Mar 02:30 EDT
- weekday-report fires next at 13 Mar 06:30 UTC
- weekly-report fires next at 17 Mar 06:30 UTC
(down for two days)
weekday  Fri 15 Mar 02:30 EDT
weekly   Sun 17 Mar 02:30 EDT
weekday  Mon 18 Mar 02:30 EDT
- weekday-report fires next at 19 Mar 06:30 UTC
- weekly-report fires next at 24 Mar 06:30 UTC
"""


def test_example_tells_two_weeks(tmp_path: Path) -> None:
    for arguments in ([], [str(tmp_path / "store")]):
        result = subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLE), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert result.stdout == OUTPUT
