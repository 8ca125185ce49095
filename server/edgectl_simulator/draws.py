"""Chance that can be repeated: each draw follows from the seed, the device and what is drawn.

Not a stream of random numbers: ten thousand devices in one loop take turns as the network has it,
and each is to draw the same in every run.
"""

from __future__ import annotations

import hashlib

__all__ = ["Draws"]

_WHOLE = 2.0**64


class Draws:
    """The luck of one device."""

    __slots__ = ("_key", "_number")

    def __init__(self, seed: int, device: str) -> None:
        self._key = hashlib.blake2b(f"{seed}/{device}".encode(), digest_size=16).digest()
        self._number = 0

    def fixed(self, what: str) -> float:
        """Return a number from 0 up to 1 that is always the same for this device and `what`."""
        return self._draw(what.encode())

    def next(self) -> float:
        """Return the next number from 0 up to 1."""
        self._number += 1
        return self._draw(self._number.to_bytes(8))

    def around(self, middle: float) -> float:
        """Return a number between half of `middle` and one and a half of it."""
        return middle * (0.5 + self.next())

    def _draw(self, content: bytes) -> float:
        digest = hashlib.blake2b(content, digest_size=8, key=self._key).digest()
        return int.from_bytes(digest) / _WHOLE
