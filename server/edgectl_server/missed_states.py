"""Devices whose state has got lost on the way: an event of theirs is newer than their newest state.

A device sends its state with every transition, and it is not acknowledged: the broker retains it,
and the next one says all of it. But a broker whose queue for the server is full drops what comes,
Mosquitto without a word, and after the last transition of an update there is no next state: a
rollout would wait for ever for what every device has said. Events are repeated until they are
acknowledged; so an event shows that a state is missing, and the retained one is asked for again.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from threading import Lock

__all__ = ["ASKED_AT_ONCE_MAX", "WAIT_S", "MissedStates"]

WAIT_S = 10.0
"""A state may come so long after its event before it is asked for, and again."""
ASKED_AT_ONCE_MAX = 64
_ASKED_MAX = 5
_DEVICES_MAX = 16384


class MissedStates:
    """Who is waited for; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: OrderedDict[str, tuple[datetime, float, int]] = OrderedDict()

    def event(self, device: str, at: datetime, stated: datetime | None, elapsed_s: float) -> None:
        """Note an event.

        Args:
            device: whose.
            at: when it happened, by the device's clock.
            stated: when its newest stored state was sent, by the same clock; None: not told.
            elapsed_s: seconds of a clock that only goes forward.
        """
        if stated is None or at <= stated:
            return
        with self._lock:
            known = self._waiting.get(device)
            if known is None or known[0] < at:
                self._waiting[device] = (at, elapsed_s, 0)
            if len(self._waiting) > _DEVICES_MAX:
                self._waiting.popitem(last=False)

    def state(self, device: str, sent_at: datetime | None) -> None:
        """Note a state that has come."""
        with self._lock:
            known = self._waiting.get(device)
            if known is not None and (sent_at is None or sent_at >= known[0]):
                del self._waiting[device]

    def due(self, elapsed_s: float) -> list[str]:
        """Return whose state is to be asked for now; none is asked for more than a few times."""
        found = []
        with self._lock:
            for device, (at, since_s, asked) in list(self._waiting.items()):
                if elapsed_s - since_s < WAIT_S:
                    continue
                if asked >= _ASKED_MAX:
                    del self._waiting[device]
                    continue
                self._waiting[device] = (at, elapsed_s, asked + 1)
                found.append(device)
                if len(found) >= ASKED_AT_ONCE_MAX:
                    break
        return found
