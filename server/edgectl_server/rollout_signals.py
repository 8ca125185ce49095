"""What the gates of a rollout's phase are told of the model in service, from stored telemetry.

Rules:

1. Counted is what has arrived since the phase began: of the new version, from devices of this
   rollout; of other versions of the model, from every device, as what it is compared with.
2. An answer that is no number counts as an error.
3. Devices say what they like of themselves. None counts for more than `WEIGHT_MAX` times the median
   of those that say anything, so that one cannot drown what the others see.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import median

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from edgectl_protocol.histograms import LATENCY_EDGES_US, merge, quantile
from edgectl_server.domain.rollouts import Signals
from edgectl_server.storage.tables import Rollout, RolloutDevice, TelemetryWindow

__all__ = ["read_signals"]

WEIGHT_MAX = 10
WINDOWS_MAX = 20_000
"""Windows that are added up, the newest first."""


@dataclass
class _Sum:
    """Windows of one device."""

    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = ()

    def add(self, row: TelemetryWindow) -> None:
        self.requests += row.requests
        self.errors += min(row.requests, row.errors + row.non_finite)
        self.latency = merge(self.latency, row.latency)


def read_signals(session: Session, rollout: Rollout, manifests: Collection[str]) -> Signals:
    """Return the signals since the phase of a rollout began.

    Args:
        session: open.
        rollout: its row.
        manifests: of the version that it brings.
    """
    if rollout.phase_since is None:
        return Signals()
    ours: dict[str, _Sum] = {}
    others: dict[str, _Sum] = {}
    member = exists().where(
        RolloutDevice.rollout == rollout.id, RolloutDevice.device == TelemetryWindow.device
    )
    rows = session.execute(
        select(TelemetryWindow, member)
        .where(
            TelemetryWindow.slot == rollout.model,
            TelemetryWindow.received_at >= rollout.phase_since,
        )
        .order_by(TelemetryWindow.received_at.desc())
        .limit(WINDOWS_MAX)
    )
    for row, is_member in rows:
        if row.manifest not in manifests:
            others.setdefault(row.device, _Sum()).add(row)
        elif is_member:
            ours.setdefault(row.device, _Sum()).add(row)
    new, old = _total(ours.values()), _total(others.values())
    return Signals(
        requests=new.requests,
        errors=new.errors,
        latency_p95_us=quantile(LATENCY_EDGES_US, new.latency, 0.95),
        reference_requests=old.requests,
        reference_p95_us=quantile(LATENCY_EDGES_US, old.latency, 0.95),
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
