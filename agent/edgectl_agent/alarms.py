"""Security events: what an attacker may have done to this device, told without shouting.

Rules:

1. Only the codes of `ALARMING` are events. That the newest order comes again after a reconnect is
   normal and none of them.
2. The first of a code is spooled at once. The same code again within `PERIOD_S` is counted, and
   told when the period has passed: whoever can cause events must not be able to fill the spool,
   the line or the server with them.
3. What is counted and not yet told is lost with a kill or a power loss, the first of it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from edgectl_agent.core.timing import Moment
from edgectl_protocol.messages import Reason, SecurityEvent

__all__ = ["ALARMING", "PERIOD_S", "Alarms"]

PERIOD_S = 300.0
ALARMING = frozenset(
    {
        "bundle.mismatch",
        "connection.certificate",
        "connection.clock",
        "order.clock",
        "order.device",
        "order.expired",
        "order.malformed",
        "order.replayed",
        "order.signature",
        "request.clock",
        "request.device",
        "request.expired",
        "request.malformed",
        "request.replayed",
        "request.signature",
        "transfer.chunk_altered",
        "trust.expired",
        "trust.mismatch",
        "trust.refused",
        "trust.rollback",
        "trust.target",
    }
)
"""Codes that an attack would cause. Some have harmless causes too: a clock that was never set."""


@dataclass
class _Seen:
    """One code since it was told last."""

    told_s: float
    count: int = 0
    at: datetime | None = None
    until: datetime | None = None
    reason: Reason | None = None
    order: int | None = None


class Alarms:
    """Counts and spools; used by the main thread."""

    def __init__(self, device: str, boot: int, put: Callable[[Callable[[int], object]], None]):
        """Begin; `put` spools what the function that it gets makes of its number."""
        self._device = device
        self._boot = boot
        self._put = put
        self._seen: dict[str, _Seen] = {}

    def note(self, reason: Reason, moment: Moment, *, order: int | None = None) -> None:
        """Note what has happened, if its code is one of `ALARMING`."""
        if reason.code not in ALARMING:
            return
        seen = self._seen.setdefault(reason.code, _Seen(told_s=float("-inf")))
        seen.count += 1
        seen.at = seen.at or moment.wall
        seen.until, seen.reason, seen.order = moment.wall, reason, order
        self.pump(moment.elapsed_s)

    def pump(self, elapsed_s: float) -> None:
        """Tell what was counted long enough."""
        for seen in self._seen.values():
            if seen.count and elapsed_s - seen.told_s >= PERIOD_S:
                self._tell(seen, elapsed_s)

    def flush(self) -> None:
        """Tell everything, because the agent ends."""
        for seen in self._seen.values():
            if seen.count:
                self._tell(seen, seen.told_s)

    def _tell(self, seen: _Seen, elapsed_s: float) -> None:
        at, until, reason, order, count = seen.at, seen.until, seen.reason, seen.order, seen.count
        assert at is not None
        assert until is not None
        assert reason is not None
        seen.told_s, seen.count, seen.at = elapsed_s, 0, None

        def make(seq: int) -> SecurityEvent:
            return SecurityEvent(
                device=self._device,
                boot=self._boot,
                seq=seq,
                at=min(at, until),
                until=until,
                reason=reason,
                count=count,
                order=order,
            )

        self._put(make)
