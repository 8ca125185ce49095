"""Requests to one device, whatever they ask for: numbered, and worth nothing late.

The number of a request only grows for a device. It grows with the clock, so that a server that was
restored from a backup goes on above what it had issued.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from edgectl_server.storage.tables import Device

__all__ = ["ANSWER_WITHIN", "BEGIN_WITHIN", "next_request"]

BEGIN_WITHIN = timedelta(minutes=2)
"""A request that was not begun by then is worthless."""
ANSWER_WITHIN = BEGIN_WITHIN + timedelta(seconds=30)
"""Its acceptance may be under way for a moment."""


def next_request(device: Device, now: datetime) -> tuple[int, str]:
    """Count a request in the device's row, and return its number and its nonce."""
    device.request_counter = max(device.request_counter + 1, int(now.timestamp() * 1000))
    return device.request_counter, secrets.token_hex(16)
