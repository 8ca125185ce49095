"""Devices whose connection comes and goes: no rollout begins on them until it stays.

A device is in the penalty box when its connection has broken `BREAKS_MAX` times within `WINDOW`; it
leaves it when it has not broken for `WINDOW`. Only a connection that broke counts, as the broker's
last will says; a device that signs off properly, for sleep or a restart, does not. Nor does what
says more of the broker, or of our own connection to it, than of the device:

1. What is retained, and what comes within `SETTLE_S` of our own connecting to the broker. A broker
   that was away sends the wills of all whom it has lost, when they come back or some time after;
   one that was there sends what broke while we were not, at whatever time.
2. What comes within `GOING` before our connection to the broker ends: a broker that is stopped
   publishes the wills of all before it hangs up on us. That is known only afterwards, and then
   taken back (`forget_breaks`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from edgectl_server.storage.tables import Device

__all__ = [
    "BREAKS_MAX",
    "GOING",
    "SETTLE_S",
    "WINDOW",
    "forget_breaks",
    "is_break",
    "is_flapping",
    "note_disconnect",
]

BREAKS_MAX = 4
WINDOW = timedelta(minutes=10)
SETTLE_S = 120.0
"""The embedded broker gives devices 30 s to return, and 10,000 take most of a minute."""
GOING = timedelta(seconds=5)


def is_break(*, retained: bool, link_age_s: float) -> bool:
    """Say whether a last will counts against its device.

    Args:
        retained: it was said before we asked.
        link_age_s: how long our connection to the broker had stood when it came.
    """
    return not retained and link_age_s >= SETTLE_S


def note_disconnect(device: Device, now: datetime) -> None:
    """Remember that the connection of a device has broken; no more than is needed."""
    device.disconnects = [*device.disconnects, now.isoformat()][-BREAKS_MAX:]


def forget_breaks(session: Session, *, lost_at: datetime) -> int:
    """Take back what counted shortly before our connection to the broker ended, and since.

    Returns:
        How many devices had such a break.
    """
    since = lost_at - GOING
    changed = []
    for name, noted in session.execute(select(Device.id, Device.disconnects)):
        kept = [one for one in noted if datetime.fromisoformat(one) < since]
        if len(kept) < len(noted):
            changed.append({"id": name, "disconnects": kept})
    if changed:
        session.execute(update(Device), changed)
    return len(changed)


def is_flapping(device: Device, now: datetime) -> bool:
    """Say whether no rollout shall begin on a device now."""
    if len(device.disconnects) < BREAKS_MAX:
        return False
    first, *_, last = (datetime.fromisoformat(one) for one in device.disconnects)
    return last - first <= WINDOW and now - last < WINDOW
