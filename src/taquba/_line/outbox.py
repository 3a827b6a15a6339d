"""Frames on their way out of a process."""

from __future__ import annotations

import asyncio


class Outbox:
    """Sends the frames of a turn of the event loop together.

    Args:
        writer: Where they go.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._frames: list[bytes] = []

    def add(self, frame: bytes) -> None:
        """Send a frame at the end of this turn."""
        if not self._frames:
            asyncio.get_running_loop().call_soon(self.flush)
        self._frames.append(frame)

    def flush(self) -> None:
        """Send now what was added."""
        frames, self._frames = self._frames, []
        if frames and not self._writer.is_closing():
            self._writer.write(frames[0] if len(frames) == 1 else b"".join(frames))
