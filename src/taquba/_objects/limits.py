"""Limits that all code that talks to a store has in common."""

from __future__ import annotations

from typing import Final

OPERATION_TIMEOUT: Final = 30.0
"""Seconds after which a store that does not answer fails an operation."""

LAST_SECONDS: Final = 0.9
"""Seconds that closing takes at most while its event loop ends, though the store does not answer.
"""
