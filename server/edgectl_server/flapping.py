"""Devices whose connection comes and goes: no rollout begins on them until it stays.

A device is in the penalty box when its connection has broken `BREAKS_MAX` times within `WINDOW`; it
leaves it when it has not broken for `WINDOW`. Only a connection that broke counts, as the broker's
last will says; a device that signs off properly, for sleep or a restart, does not.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from edgectl_server.storage.tables import Device

__all__ = ["BREAKS_MAX", "WINDOW", "is_flapping", "note_disconnect"]

BREAKS_MAX = 4
WINDOW = timedelta(minutes=10)


def note_disconnect(device: Device, now: datetime) -> None:
    """Remember that the connection of a device has broken; no more than is needed."""
    device.disconnects = [*device.disconnects, now.isoformat()][-BREAKS_MAX:]


def is_flapping(device: Device, now: datetime) -> bool:
    """Say whether no rollout shall begin on a device now."""
    if len(device.disconnects) < BREAKS_MAX:
        return False
    first, *_, last = (datetime.fromisoformat(one) for one in device.disconnects)
    return last - first <= WINDOW and now - last < WINDOW
