"""Counts attempts to log in, in memory and within bounds: by name and address, and by address."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict, deque

from edgectl_server.errors import TooMany

__all__ = ["ATTEMPTS_PER_MINUTE", "ATTEMPTS_PER_MINUTE_PER_ADDRESS", "Attempts", "source_of"]

ATTEMPTS_PER_MINUTE = 10
"""Of one name from one address."""
ATTEMPTS_PER_MINUTE_PER_ADDRESS = 60
_KEYS_MAX = 4096
_MINUTE_S = 60.0


class Attempts:
    """Those of the last minute, or of another time."""

    def __init__(
        self,
        *,
        most: int = ATTEMPTS_PER_MINUTE,
        most_of_address: int = ATTEMPTS_PER_MINUTE_PER_ADDRESS,
        within_s: float = _MINUTE_S,
    ) -> None:
        self._most = most
        self._most_of_address = most_of_address
        self._within_s = within_s
        self._lock = threading.Lock()
        self._times: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def count(self, name: str, address: str) -> None:
        """Count one attempt.

        Raises:
            TooMany: ``auth.attempts``.
        """
        with self._lock:
            self._count(("", address), self._most_of_address)
            self._count((name, address), self._most)

    def forget(self, name: str, address: str) -> None:
        """A right password ends the count for its name."""
        with self._lock:
            self._times.pop((name, address), None)

    def _count(self, key: tuple[str, str], most: int) -> None:
        at = time.monotonic()
        times = self._times.setdefault(key, deque())
        self._times.move_to_end(key)
        while times and times[0] <= at - self._within_s:
            times.popleft()
        if len(times) >= most:
            wait_s = int(times[0] + self._within_s - at) + 1
            raise TooMany(
                "auth.attempts",
                "too many wrong passwords",
                hint=f"wait {wait_s} seconds",
                data={"retry_after_s": wait_s},
            )
        times.append(at)
        while len(self._times) > _KEYS_MAX:
            self._times.popitem(last=False)


def source_of(address: str) -> str:
    """Return whose attempts are counted together: an IPv6 client has a whole /64 to itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:  # noqa: PLR2004 - the version of IP
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
