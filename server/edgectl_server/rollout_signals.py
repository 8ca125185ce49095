"""What the gates of a rollout's phase are told of the model in service, from stored telemetry.

Rules:

1. Counted is what has arrived since the phase began: of the new version, from devices of this
   rollout; of other versions of the model, from every device, as what it is compared with.
2. An answer that is no number counts as an error.
3. Devices say what they like of themselves. None counts for more than `WEIGHT_MAX` times the median
   of those that say anything, so that one cannot drown what the others see.
4. Of each side the newest `WINDOWS_MAX` windows are read: some canaries are heard however many
   others there are.
5. What copies of requests were answered, a device reports of its update, once: of all devices of
   the rollout that have committed, in whichever phase.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from statistics import median

import msgspec
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from edgectl_protocol.histograms import LATENCY_EDGES_US, merge, quantile
from edgectl_protocol.messages import UpdateReport
from edgectl_server.domain.rollouts import DeviceState, Samples, Signals
from edgectl_server.storage.tables import Device, Rollout, RolloutDevice, TelemetryWindow

__all__ = ["read_copies", "read_signals"]

WEIGHT_MAX = 10
WINDOWS_MAX = 10_000
"""Windows of either side that are added up, the newest first."""


@dataclass
class _Sum:
    """Windows of one device."""

    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = ()
    confidence: tuple[int, ...] = ()
    classes: list[int] = field(default_factory=list)

    def add(self, row: TelemetryWindow) -> None:
        self.requests += row.requests
        self.errors += min(row.requests, row.errors + row.non_finite)
        self.latency = merge(self.latency, row.latency)
        self.confidence = merge(self.confidence, row.confidence)
        self.classes = [a + b for a, b in zip_longest(self.classes, row.classes, fillvalue=0)]


def read_signals(session: Session, rollout: Rollout, manifests: Collection[str]) -> Signals:
    """Return the signals since the phase of a rollout began.

    Args:
        session: open.
        rollout: its row.
        manifests: of the version that it brings.
    """
    if rollout.phase_since is None:
        return Signals()
    arrived = (
        select(TelemetryWindow)
        .where(
            TelemetryWindow.slot == rollout.model,
            TelemetryWindow.received_at >= rollout.phase_since,
        )
        .order_by(TelemetryWindow.received_at.desc())
        .limit(WINDOWS_MAX)
    )
    is_new = TelemetryWindow.manifest.in_(manifests)
    is_member = exists().where(
        RolloutDevice.rollout == rollout.id, RolloutDevice.device == TelemetryWindow.device
    )
    ours = _by_device(session.scalars(arrived.where(is_new, is_member)))
    others = _by_device(session.scalars(arrived.where(~is_new)))
    new, old = _total(ours.values()), _total(others.values())
    return Signals(
        requests=new.requests,
        errors=new.errors,
        latency_p95_us=quantile(LATENCY_EDGES_US, new.latency, 0.95),
        reference_requests=old.requests,
        reference_p95_us=quantile(LATENCY_EDGES_US, old.latency, 0.95),
        classes=Samples(
            _weigh([one.classes for one in ours.values()]),
            _weigh([one.classes for one in others.values()]),
        ),
        confidence=Samples(
            _weigh([one.confidence for one in ours.values()]),
            _weigh([one.confidence for one in others.values()]),
        ),
    )


def _by_device(windows: Iterable[TelemetryWindow]) -> dict[str, _Sum]:
    found: dict[str, _Sum] = {}
    for one in windows:
        found.setdefault(one.device, _Sum()).add(one)
    return found


def read_copies(
    rollout: Rollout, members: Iterable[tuple[RolloutDevice, Device | None]]
) -> tuple[int, int]:
    """Return how many copied requests both versions answered, and to how many they agreed."""
    told: list[list[int]] = []
    for row, device in members:
        if row.state != DeviceState.COMMITTED.value or device is None or not device.reported:
            continue
        update = device.reported.get("slots", {}).get(rollout.model, {}).get("update")
        if not update or update.get("rollout") != rollout.id:
            continue
        report = msgspec.convert(update, UpdateReport)
        seen = [one for one in (report.shadow, report.observation) if one is not None]
        agreed = sum(min(one.agreed, one.mirrored) for one in seen)
        told.append([agreed, sum(one.mirrored for one in seen) - agreed])
    weighed = _weigh(told)
    return sum(map(sum, weighed)), sum(agreed for agreed, _ in weighed)


def _weigh(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return counts of devices that have any, each with the weight that it may have."""
    heard = [(sum(row), row) for row in rows if sum(row) > 0]
    most = WEIGHT_MAX * median(total for total, _ in heard) if heard else 0
    return tuple(
        tuple(round(count * min(1.0, most / total)) for count in row) for total, row in heard
    )


def _total(sums: Iterable[_Sum]) -> _Sum:
    """Add devices up, each with the weight that it may have."""
    heard = [one for one in sums if one.requests > 0]
    total = _Sum()
    most = WEIGHT_MAX * median(one.requests for one in heard) if heard else 0
    for one in heard:
        share = min(1.0, most / one.requests)
        total.requests += round(one.requests * share)
        total.errors += round(one.errors * share)
        total.latency = merge(total.latency, [round(count * share) for count in one.latency])
    return total
