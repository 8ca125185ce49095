"""What an experiment is told: requests of each device since its phase has settled, added up once.

Rules:

1. Sides are those of the rollout's devices: committed with the new version, or not touched yet.
   Of the first, what they answered with the new version counts, of the others, with another one.
2. What has arrived is added to the device's row in the tick that sees it, so that an experiment of
   weeks costs no more than the telemetry of some seconds. It begins at 0 when the phase settles.
3. One window counts for `WINDOW_REQUESTS_MAX` requests at most: whatever a device says of itself,
   sums stay numbers that a database can hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Row, select, update
from sqlalchemy.orm import Session

from edgectl_protocol.histograms import CONFIDENCE_EDGES
from edgectl_server.domain.rollouts import Arm, DeviceState, Experiment
from edgectl_server.rollout_sites import site_of
from edgectl_server.storage.tables import Device, Rollout, RolloutDevice, TelemetryWindow

__all__ = ["add_windows", "read_arms"]

WINDOW_REQUESTS_MAX = 10**9
WINDOWS_AT_ONCE = 20_000
_COMMITS_WITHIN = timedelta(seconds=5)
"""What has arrived later than this ago may not be in the database yet."""
_CHAMPIONS = frozenset({DeviceState.PENDING.value, DeviceState.OVERDUE.value})
_BINS = len(CONFIDENCE_EDGES) + 1


class _Counted(NamedTuple):
    """Of one window."""

    wrong: int
    requests: int


def add_windows(
    session: Session,
    rollout: Rollout,
    experiment: Experiment,
    rows: Iterable[RolloutDevice],
    *,
    manifests: Collection[str],
    now: datetime,
) -> None:
    """Add what has arrived to the rows of the rollout's devices.

    Args:
        session: open for writing.
        rollout: its row, settled.
        experiment: of its phase.
        rows: all of its devices.
        manifests: of the version that it brings.
        now: UTC.
    """
    assert rollout.settled_at is not None
    by_name = {row.device: row for row in rows}
    if rollout.tested_until is None or rollout.tested_until < rollout.settled_at:
        session.execute(
            update(RolloutDevice)
            .where(RolloutDevice.rollout == rollout.id)
            .values(tested_requests=0, tested_wrong=0)
        )
        rollout.tested_until = rollout.settled_at
    until = now - _COMMITS_WITHIN
    found = session.execute(
        select(
            TelemetryWindow.device,
            TelemetryWindow.manifest,
            TelemetryWindow.received_at,
            TelemetryWindow.requests,
            TelemetryWindow.errors,
            TelemetryWindow.non_finite,
            TelemetryWindow.confidence,
        )
        .where(
            TelemetryWindow.slot == rollout.model,
            TelemetryWindow.received_at > rollout.tested_until,
            TelemetryWindow.received_at <= until,
        )
        .order_by(TelemetryWindow.received_at)
        .limit(WINDOWS_AT_ONCE)
    ).all()
    if len(found) == WINDOWS_AT_ONCE:
        until = found[-1].received_at
    for window in found:
        row = by_name.get(window.device)
        if row is None or not _belongs(row, new=window.manifest in manifests):
            continue
        counted = _count(window, experiment)
        row.tested_requests += counted.requests
        row.tested_wrong += counted.wrong
    rollout.tested_until = max(until, rollout.tested_until)


def _belongs(row: RolloutDevice, *, new: bool) -> bool:
    return row.state == DeviceState.COMMITTED.value if new else row.state in _CHAMPIONS


def _count(
    window: Row[tuple[str, str, datetime, int, int, int, list[int]]], experiment: Experiment
) -> _Counted:
    if experiment.rate == "error_rate":
        requests = min(window.requests, WINDOW_REQUESTS_MAX)
        return _Counted(min(requests, window.errors + window.non_finite), requests)
    bins = [min(count, WINDOW_REQUESTS_MAX // _BINS) for count in window.confidence]
    return _Counted(sum(bins[: round(experiment.confidence_below * _BINS)]), sum(bins))


def read_arms(
    experiment: Experiment, members: Iterable[tuple[RolloutDevice, Device | None]]
) -> tuple[Arm, Arm]:
    """Return challenger and champion, unit by unit."""
    sides: tuple[dict[str, list[int]], ...] = (
        defaultdict(lambda: [0, 0]),
        defaultdict(lambda: [0, 0]),
    )
    for row, device in members:
        if device is None or not (row.state in _CHAMPIONS or _belongs(row, new=True)):
            continue
        unit = site_of(device) if experiment.unit == "site" else row.device
        sums = sides[row.state in _CHAMPIONS][unit]
        sums[0] += row.tested_wrong
        sums[1] += row.tested_requests
    challenger, champion = (
        Arm(tuple((wrong, requests) for wrong, requests in side.values())) for side in sides
    )
    return challenger, champion
