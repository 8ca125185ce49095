"""What a run counts, and how it is summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

__all__ = ["Counts", "quantile"]

_TIMES_MAX = 200_000


class Counts:
    """Of the whole fleet; used by one thread."""

    def __init__(self) -> None:
        self.online = 0
        self.enrolled = 0
        self.happened: Counter[str] = Counter()
        """Connections begun, refused and lost; messages by kind; acknowledgements; faults."""
        self.ended: Counter[str] = Counter()
        """Updates by the state in which they have ended."""
        self.refusals: Counter[str] = Counter()
        """Orders that were not obeyed, by reason."""
        self.problems: Counter[str] = Counter()
        """Why there was no connection."""
        self.order_s: list[float] = []
        """From an order's issue until a device has it."""
        self.acknowledged_s: list[float] = []
        """From an order's issue until the server has acknowledged the device's first event."""

    def time(self, into: list[float], seconds: float) -> None:
        """Note a duration; of very many, the first count."""
        if len(into) < _TIMES_MAX:
            into.append(seconds)

    def problem(self, why: str) -> None:
        """Note why a connection did not come about."""
        if why in self.problems or len(self.problems) < 32:  # noqa: PLR2004 - few are shown
            self.problems[why] += 1

    def summary(self) -> dict[str, Any]:
        """Return everything, for a program."""
        return {
            "online": self.online,
            "enrolled": self.enrolled,
            "counts": dict(sorted(self.happened.items())),
            "updates_ended": dict(sorted(self.ended.items())),
            "orders_refused": dict(sorted(self.refusals.items())),
            "connection_problems": dict(self.problems.most_common(8)),
            "order_received_s": _times(self.order_s),
            "order_acknowledged_s": _times(self.acknowledged_s),
        }

    def line(self) -> str:
        """Return how it goes, for a person."""
        got = self.happened
        ended = ", ".join(f"{count} {state}" for state, count in sorted(self.ended.items()))
        return (
            f"{self.online} online, {got['connected']} connects, {got['lost']} lost; "
            f"{got['telemetry']} telemetry, {got['event']} events, {got['state']} states sent, "
            f"{got['acknowledged']} acknowledged; {got['order']} orders"
            + (f"; updates: {ended}" if ended else "")
        )


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which `share` of the sorted `values` lie; None of none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def _times(values: list[float]) -> dict[str, Any]:
    ordered = sorted(values)
    rounded = {
        name: None if (value := quantile(ordered, share)) is None else round(value, 4)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }
    return {"count": len(ordered), **rounded}
