"""Through which every connection goes: no more begun in a second than was said, in their order."""

from __future__ import annotations

import asyncio

__all__ = ["HANDSHAKES_MAX", "Gate"]

HANDSHAKES_MAX = 64
"""Connections that are being made at a time."""


class Gate:
    """For all devices of one loop."""

    def __init__(self, rate: float) -> None:
        """Let `rate` through in a second."""
        self._period_s = 1.0 / rate
        self._next_s = 0.0
        self._handshakes = asyncio.Semaphore(HANDSHAKES_MAX)

    async def wait(self) -> None:
        """Return when it is one's turn."""
        loop = asyncio.get_running_loop()
        turn_s = max(self._next_s, loop.time())
        self._next_s = turn_s + self._period_s
        await asyncio.sleep(max(0.0, turn_s - loop.time()))

    def handshake(self) -> asyncio.Semaphore:
        """Return what is held while a connection is made."""
        return self._handshakes
