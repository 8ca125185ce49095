"""Where devices are, which are held, how their figures went, and what is saved of that."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from msgspec import to_builtins

from edgectl_protocol.messages import SystemSample
from edgectl_server.storage.tables import (
    Base,
    Device,
    SavedSelector,
    SystemSampleRow,
    TelemetryWindow,
)

HELD = 5
"""Number of the device that somebody holds."""
PLACES = {"porto": ("41.15", "-8.61"), "lyon": ("45.76", "4.84")}
"""Gdansk is a site by its label, and on no map."""
STEPS = 20


def labels_of(number: int, site: str) -> dict[str, Any]:
    """Return what people have said of a device."""
    labels = {"site": site, "hw": "rpi4" if number % 2 else "rpi5"}
    if site in PLACES:
        labels["lat"], labels["lon"] = PLACES[site]
    return labels


def held(number: int, now: datetime) -> dict[str, Any]:
    """Return the columns of a device that is held, or nothing."""
    if number != HELD:
        return {}
    reason = "on the test bench until Friday"
    return {"held_at": now - timedelta(hours=5), "held_by": "operator", "hold_reason": reason}


def saved(now: datetime) -> list[Base]:
    """Return selectors with a name."""
    texts = {"porto-pis": "site=porto and hw in (rpi4, rpi5)", "not-porto": "not @porto-pis"}
    return [
        SavedSelector(name=name, text=text, changed_at=now, changed_by="operator")
        for name, text in texts.items()
    ]


def history(device: Device, now: datetime, like: TelemetryWindow) -> list[Base]:
    """Return an hour of a device, a row each three minutes, that goes up and down."""
    rows: list[Base] = []
    fields = {column.name: getattr(like, column.name) for column in like.__table__.columns}
    for step in range(STEPS):
        at = now - timedelta(minutes=3 * (STEPS - step))
        wave = 1 + math.sin(step / 3)
        latency = [0] * 42
        latency[10 + step % 4] = int(200 * wave) + 10
        latency[15] = 12
        times = {"start": at - timedelta(minutes=3), "end": at, "received_at": at}
        counted = {"boot": 3, "seq": step, "latency": latency, "requests": sum(latency)}
        rows.append(TelemetryWindow(**{**fields, **times, **counted}))
        sample = SystemSample(
            at=at,
            load_1min=0.3 + wave / 4,
            memory_available_bytes=2_900_000_000 - step * 4_000_000,
            disk_free_bytes=11_000_000_000,
            temperature_c=48 + 6 * wave,
            agent_rss_bytes=34_000_000,
            inference_rss_bytes=78_000_000 + step * 100_000,
        )
        rows.append(
            SystemSampleRow(
                device=device.id, boot=3, seq=step, at=at, received_at=at,
                sample=to_builtins(sample),
            )
        )  # fmt: skip
    return rows
