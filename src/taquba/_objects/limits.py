"""Limits that all code that talks to a store has in common."""

from __future__ import annotations

from typing import Final

OPERATION_TIMEOUT: Final = 30.0
"""Seconds after which a store that does not answer fails an operation."""

LAST_SECONDS: Final = 1.0
"""Seconds for which a store that does not answer is waited for while its event loop ends."""
