"""What the manager of services (systemd) is told: that the server is ready, lives, and ends.

One datagram of lines ``NAME=value`` to the Unix socket that ``$NOTIFY_SOCKET`` names; where there
is none, nothing is said. Source: ``sd_notify(3)``, ``sd_watchdog_enabled(3)``.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

__all__ = ["ServiceManager"]

_SIGNS_PER_INTERVAL = 2
"""sd_watchdog_enabled(3) recommends a sign of life every half of the interval."""
_log = logging.getLogger(__name__)


class ServiceManager:
    """The way to who has started this process, where that is a manager of services."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Find the socket, and how often a sign of life is wanted.

        Args:
            environment: as `os.environ`.
        """
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every_s = _sign_of_life_every_s(environment) if address else None
        self._next_s = 0.0

    def ready(self, status: str) -> None:
        """Say that the start is over, with one line for a person."""
        self._send(f"READY=1\nSTATUS={' '.join(status.split())[:200]}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1\nSTATUS=ends in good order")

    def alive(self, elapsed_s: float) -> None:
        """Give a sign of life, if one is due.

        Args:
            elapsed_s: seconds on a clock that never jumps.
        """
        if self._every_s is not None and elapsed_s >= self._next_s:
            self._next_s = elapsed_s + self._every_s
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
                way.setblocking(False)
                way.sendto(text.encode(), self._address)
        except OSError as error:
            _log.warning("the manager of services cannot be told: %s", error)


def _sign_of_life_every_s(environment: Mapping[str, str]) -> float | None:
    """Return how often a sign of life is wanted; None: never, or of another process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        interval_us = int(environment.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return interval_us / 1e6 / _SIGNS_PER_INTERVAL if interval_us > 0 else None
