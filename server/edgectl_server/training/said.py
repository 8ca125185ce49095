"""What a trainer says while it works, written down where people look, once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from edgectl_server.training.spec import METRICS_MAX

__all__ = ["LOG_MAX", "Said"]

LOG_MAX = 16 * 1024
"""Bytes of the log that are kept: the last ones."""
_EVERY_S = 1.0


class Said:
    """The last of a trainer's log, and its newest figures.

    Attributes:
        metrics: the figures by name.
    """

    def __init__(
        self,
        note: Callable[[Mapping[str, Any]], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            note: writes ``log`` and ``metrics`` down.
            monotonic: seconds of a clock that nobody sets.
        """
        self.metrics: dict[str, float] = {}
        self._note = note
        self._monotonic = monotonic
        self._lines = b""
        self._changed = False
        self._due_s = float("-inf")

    def add(self, line: bytes) -> None:
        """Take a line of the log."""
        self._lines = (self._lines + line[:LOG_MAX] + b"\n")[-LOG_MAX:]
        self._changed = True

    def take(self, metrics: Mapping[str, float]) -> None:
        """Take figures; of too many names the first stay."""
        for name, value in metrics.items():
            if name in self.metrics or len(self.metrics) < METRICS_MAX:
                self.metrics[name] = value

    def look(self) -> None:
        """Write down what is new, if it is time; called again and again while a trainer works."""
        now_s = self._monotonic()
        if self._changed and now_s >= self._due_s:
            self._changed, self._due_s = False, now_s + _EVERY_S
            self._note({"log": self.text, "metrics": dict(self.metrics)})

    @property
    def text(self) -> str:
        """The log, as a database takes it."""
        return self._lines.decode(errors="replace").replace("\x00", "")
