"""Which of the numbered messages of one start of an agent have come, and which are missing?

Numbers begin at 1 and grow by one. A message may come twice, and later than its successors: after a
connection that broke, or from a spool that was full of others. A number that is passed over is a
gap until it comes. What fills no gap and is not new has come before.

No more than `GAPS_MAX` gaps are known one by one; of the oldest, then, only how many numbers it
had: should they come after all, they count as repeated. So no device can grow its row.

Whether a gap may still be filled is for the device to say: it tells the oldest message that waits
in its spool, and what is older than that and has not come is lost. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

__all__ = ["GAPS_MAX", "Gap", "Receipt", "note", "state_of"]

GAPS_MAX = 64
FORGOTTEN_MAX = 2**62


@dataclass(frozen=True)
class Gap:
    """Numbers `first` to `last`, missing since `noticed_at`."""

    first: int
    last: int
    noticed_at: datetime


@dataclass(frozen=True)
class Receipt:
    """What has come of one start of one agent.

    Attributes:
        last: the highest number.
        received: messages that were new.
        duplicates: messages that had come before.
        forgotten: missing numbers that are no longer known one by one.
        gaps: ascending.
    """

    last: int = 0
    received: int = 0
    duplicates: int = 0
    forgotten: int = 0
    gaps: tuple[Gap, ...] = ()


def note(receipt: Receipt, seq: int, now: datetime) -> Receipt:
    """Return the receipt after a message.

    Args:
        receipt: before.
        seq: number of the message.
        now: the time of its arrival.
    """
    if seq > receipt.last:
        gaps = receipt.gaps
        if seq > receipt.last + 1:
            gaps = (*gaps, Gap(receipt.last + 1, seq - 1, now))
        return _bounded(replace(receipt, last=seq, received=receipt.received + 1, gaps=gaps))
    for place, gap in enumerate(receipt.gaps):
        if gap.first <= seq <= gap.last:
            rest = (replace(gap, last=seq - 1), replace(gap, first=seq + 1))
            left = tuple(one for one in rest if one.first <= one.last)
            gaps = (*receipt.gaps[:place], *left, *receipt.gaps[place + 1 :])
            return _bounded(replace(receipt, received=receipt.received + 1, gaps=gaps))
    return replace(receipt, duplicates=receipt.duplicates + 1)


def _bounded(receipt: Receipt) -> Receipt:
    if len(receipt.gaps) <= GAPS_MAX:
        return receipt
    oldest, *rest = receipt.gaps
    forgotten = min(FORGOTTEN_MAX, receipt.forgotten + oldest.last - oldest.first + 1)
    return replace(receipt, forgotten=forgotten, gaps=tuple(rest))


def state_of(
    boot: int, gap: Gap, waits: tuple[int, int] | None
) -> Literal["awaited", "lost", "partly lost", "unknown"]:
    """Say what is to become of a gap.

    Args:
        boot: in which it is.
        gap: of that boot.
        waits: boot and number of the oldest message that waits on the device; None: it never said.
    """
    if waits is None:
        return "unknown"
    if (boot, gap.last) < waits:
        return "lost"
    return "partly lost" if (boot, gap.first) < waits else "awaited"
