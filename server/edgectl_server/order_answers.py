"""What a device has reported, and whether it answers an order of ours."""

from __future__ import annotations

import msgspec

from edgectl_protocol.messages import Reason, ReportedState
from edgectl_server.storage.tables import Device

__all__ = [
    "ACCEPTED_MAX",
    "is_overtaken",
    "knows_order",
    "mark_forgotten",
    "refusal_of",
    "reported_of",
]

ACCEPTED_MAX = 2**62
"""Highest number of an accepted order that is believed; the wire carries twice as many."""


_FORGOTTEN = ""
"""In the place of a nonce: orders below this number, down to the next that is known, may have been
given by this server before it was restored from a backup."""


def mark_forgotten(device: Device, ahead: int) -> None:
    """Go on with a device's orders `ahead` of the newest that is known; none since is known."""
    device.order_counter += ahead
    device.order_nonces = {**(device.order_nonces or {}), str(device.order_counter): _FORGOTTEN}


def knows_order(device: Device, counter: int, nonce: str | None) -> bool | None:
    """Say whether `nonce` is that of the device's order `counter`.

    None for one too long ago, or given in a time that this server has forgotten.
    """
    known: str | None = device.order_nonces.get(str(counter))
    if known is not None and known != _FORGOTTEN:
        return known == nonce
    if _is_forgotten(device, counter):
        return None
    oldest = min((int(one) for one in device.order_nonces), default=device.order_counter + 1)
    return None if 0 < counter < oldest else False


def is_overtaken(device: Device, reported: ReportedState) -> bool:
    """Say whether the device takes its present order for a replay.

    It has accepted an order that is not ours under that number or a higher one: ours from after the
    moment of a restored backup, or a thief's. It may have told us only after the order was made.
    """
    accepted = reported.order_counter
    given = [int(one) for one, nonce in device.order_nonces.items() if nonce != _FORGOTTEN]
    newest = max(given, default=0) if _is_forgotten(device, accepted) else device.order_counter
    if accepted == 0 or not newest <= accepted <= ACCEPTED_MAX:
        return False
    return knows_order(device, accepted, reported.order_nonce) is not True


def _is_forgotten(device: Device, counter: int) -> bool:
    """Say whether an order of that number may be one that was forgotten by a restore."""
    above = [int(one) for one in device.order_nonces if int(one) >= counter]
    return bool(above) and device.order_nonces[str(min(above))] == _FORGOTTEN


def reported_of(device: Device) -> ReportedState | None:
    """Return what a device has reported last; None before its first report."""
    if not device.reported:
        return None
    return msgspec.convert(device.reported, ReportedState)


def refusal_of(reported: ReportedState | None, counter: int | None) -> Reason | None:
    """Return why a device does not obey the order with that counter, if it says so.

    A newer one that is refused stands for it while it has not been accepted. So does what has no
    number because its signature is not good: it may be our order as well as a stranger's.
    """
    if reported is None or reported.refusal is None or counter is None:
        return None
    refused = reported.refused_counter
    waiting = reported.order_counter < counter
    ours = refused == counter or (waiting and (refused is None or refused > counter))
    return reported.refusal if ours else None
