"""What a device has reported, and whether it answers an order of ours."""

from __future__ import annotations

import msgspec

from edgectl_protocol.messages import Reason, ReportedState
from edgectl_server.storage.tables import Device

__all__ = ["ACCEPTED_MAX", "is_overtaken", "knows_order", "refusal_of", "reported_of"]

ACCEPTED_MAX = 2**62
"""Highest number of an accepted order that is believed; the wire carries twice as many."""


def knows_order(device: Device, counter: int, nonce: str | None) -> bool | None:
    """Say whether `nonce` is that of the device's order `counter`; None for one too long ago."""
    known: str | None = device.order_nonces.get(str(counter))
    if known is not None:
        return known == nonce
    oldest = min((int(one) for one in device.order_nonces), default=device.order_counter + 1)
    return None if 0 < counter < oldest else False


def is_overtaken(device: Device, reported: ReportedState) -> bool:
    """Say whether the device takes its present order for a replay.

    It has accepted an order that is not ours under that number or a higher one: ours from after the
    moment of a restored backup, or a thief's. It may have told us only after the order was made.
    """
    accepted = reported.order_counter
    if not device.order_counter <= accepted <= ACCEPTED_MAX:
        return False
    return knows_order(device, accepted, reported.order_nonce) is False


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
