"""Why a model that is proved may not be switched to yet.

Rules:

1. It waits for the slots that it is coupled with, then for the end of a hold, then for the
   maintenance windows of the order's policy and of the device's own setting, all of which must be
   open.
2. A hold keeps models from being switched, and nothing else: what is fetched, proved, shadowed or
   observed goes on, and so does every way back. What was being switched when it began is finished.
3. What a person at the device asks for waits for no window.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from edgectl_agent.core import coupling
from edgectl_agent.core.record import Record, SlotPointer, Update
from edgectl_agent.core.timing import Moment
from edgectl_agent.core.windows import LOOK_S_MAX, Windows, closed, opens_at
from edgectl_protocol.messages import Reason

__all__ = ["Gate"]


class Gate:
    """What may keep a device from switching, besides the updates themselves."""

    def __init__(self, maintenance: Windows, held: Reason | None) -> None:
        self._maintenance = maintenance
        self._held = held

    def hold(self, held: Reason | None) -> None:
        """Begin a hold, or end it with None."""
        self._held = held

    def obstacle(
        self,
        update: Update,
        record: Record,
        pointers: Mapping[str, SlotPointer],
        retrying: Collection[str],
        moment: Moment,
    ) -> Reason | None:
        """Say why `update`, which is proved, may not be activated now, or None."""
        reason = coupling.missing(update.slot, record, pointers, retrying)
        if reason is not None:
            return reason
        if self._held is not None:
            return Reason(code="update.held", detail=self._held.detail)
        if update.wish:
            return None
        order = record.order
        issued_at = order.issued_at if order else None
        return closed(self._lists(record), moment, issued_at=issued_at)

    def look_s(self, record: Record, moment: Moment) -> float:
        """Return after how many seconds closed windows are looked at again."""
        at = opens_at(self._lists(record), moment)
        if at is None or at <= moment.wall:  # open, were the clock not wrong
            return LOOK_S_MAX
        return min(LOOK_S_MAX, max(1.0, (at - moment.wall).total_seconds()))

    def _lists(self, record: Record) -> Sequence[Windows]:
        order = record.order
        return (order.policy.windows if order else (), self._maintenance)
