"""What the manager of services (systemd) is told: that the agent is ready, lives, and ends.

One datagram of lines ``NAME=value`` to the Unix socket that ``$NOTIFY_SOCKET`` names; where there
is none, nothing is said. It may keep descriptors beyond the end of this process, and then gives
them to the next one. Source: ``sd_notify(3)``, ``sd_watchdog_enabled(3)``,
``sd_pid_notify_with_fds(3)``, ``sd_listen_fds(3)``.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from array import array
from collections.abc import Mapping

__all__ = ["ServiceManager"]

_FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""
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
        self._kept = _kept_descriptors(environment)
        self._every_s = _sign_of_life_every_s(environment) if address else None
        self._next_s = 0.0

    def ready(self, status: str) -> None:
        """Say that the start is over; may be said again.

        Args:
            status: one line for a person, as ``systemctl status`` shows it.
        """
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """Say how it is going, in one line for a person."""
        self._send(f"STATUS={_line(status)}")

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

    def pause(self, seconds: float) -> None:
        """Sleep, with signs of life."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.alive(time.monotonic())
            time.sleep(min(left_s, self._every_s or left_s))

    @property
    def there(self) -> bool:
        """Whether anybody is told."""
        return bool(self._address)

    def kept(self, name: str) -> int | None:
        """Return the descriptor that was kept under `name` for this process, once; or None."""
        return self._kept.pop(name, None)

    def keep(self, name: str, descriptor: int) -> None:
        """Have a copy of a descriptor kept for the next process, where the service allows that."""
        self._send(f"FDSTORE=1\nFDNAME={name}", descriptor)

    def forget(self, name: str) -> None:
        """Have what is kept under `name` closed."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, text: str, *descriptors: int) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
                way.setblocking(False)
                # socket.send_fds of Python 3.11 forgets the address.
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
                way.sendmsg([text.encode()], [rights] if descriptors else [], 0, self._address)
        except OSError as error:
            _log.warning("the manager of services cannot be told: %s", error)


def _sign_of_life_every_s(environment: Mapping[str, str]) -> float | None:
    """Return the seconds between two signs of life; None where nobody waits for them."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        interval_us = int(environment.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return interval_us / 1e6 / _SIGNS_PER_INTERVAL if interval_us > 0 else None


def _kept_descriptors(environment: Mapping[str, str]) -> dict[str, int]:
    """Return the descriptors that this process was started with, by name."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    try:
        count = int(environment.get("LISTEN_FDS", "0"))
    except ValueError:
        return {}
    return {name: _FIRST_DESCRIPTOR + at for at, name in enumerate(names[: max(count, 0)])}


def _line(text: str) -> str:
    return " ".join(text.split())
