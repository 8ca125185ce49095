"""How much each device may have stored: a bucket that fills slowly, for each device its own.

A device that was stolen may say what it likes about itself, for as long as its certificate is good.
It must not fill the server's disk with it. What is refused is not acknowledged to the device: an
honest one keeps it and sends it again, when there is room.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Allowance"]

BURST_BYTES = 32 * 1024**2
"""More than an agent's spool holds by default: a device that was away for long brings all of it."""
BYTES_PER_S = 4096.0
"""Above what a device with all slots in use sends."""
MESSAGE_BYTES = 512
"""What a message costs beside its payload."""
_DEVICES_MAX = 16384


class Allowance:
    """One bucket a device; used by one thread."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, device: str, size: int, elapsed_s: float) -> bool:
        """Say whether a message of `size` bytes may be stored, and count it if so.

        Args:
            device: its name.
            size: of the payload, in bytes.
            elapsed_s: seconds of a clock that only goes forward.
        """
        left, at = self._buckets.get(device, (float(BURST_BYTES), elapsed_s))
        left = min(BURST_BYTES, left + (elapsed_s - at) * BYTES_PER_S)
        cost = size + MESSAGE_BYTES
        allowed = left >= cost
        self._buckets[device] = (left - cost if allowed else left, elapsed_s)
        self._buckets.move_to_end(device)
        if len(self._buckets) > _DEVICES_MAX:
            self._buckets.popitem(last=False)
        return allowed
