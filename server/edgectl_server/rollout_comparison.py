"""The new version beside the others of its model, in service, while a rollout runs.

For people to look at: counted is all telemetry that has arrived since the rollout began, each
request once. Gates count from the beginning of their phase and weigh devices
(`edgectl_server.rollout_signals`), so their figures are others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import select

from edgectl_protocol.histograms import LATENCY_EDGES_US, merge, quantile
from edgectl_server.rollout_views import find_rollout
from edgectl_server.schemas import ServiceComparison, ServicePoint, ServiceSide
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import BundleVariant, TelemetryWindow

__all__ = ["RolloutComparison"]

WINDOWS_MAX = 20_000
"""Windows that are added up, the newest first."""
POINTS_MAX = 60
_STEPS_S = (60, 300, 900, 3600, 4 * 3600, 86_400)
_LATE = timedelta(minutes=10)
"""For so long telemetry counts after a rollout has ended."""


@dataclass
class _Sum:
    """Windows added up."""

    devices: set[str] = field(default_factory=set)
    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = ()

    def add(self, device: str, requests: int, errors: int, latency: list[int]) -> None:
        self.devices.add(device)
        self.requests += requests
        self.errors += min(requests, errors)
        self.latency = merge(self.latency, latency)

    def quantile(self, share: float) -> float | None:
        """Return a latency in µs; None where nothing was answered."""
        return quantile(LATENCY_EDGES_US, self.latency, share)

    def side(self) -> ServiceSide:
        """Return it as it is shown."""
        return ServiceSide(
            devices=len(self.devices),
            requests=self.requests,
            errors=self.errors,
            latency_p50_us=self.quantile(0.5),
            latency_p95_us=self.quantile(0.95),
            latency_p99_us=self.quantile(0.99),
            latency=list(self.latency),
        )


class RolloutComparison:
    """Reads what versions do in service. Its methods may be called from any thread."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    def compare(self, rollout_id: str) -> ServiceComparison:
        """Return what the version of a rollout has done since it began, and the others.

        Raises:
            NotFound: ``rollout.unknown``.
        """
        with self._database.read() as session:
            rollout = find_rollout(session, rollout_id)
            wanted = select(BundleVariant.manifest).where(
                BundleVariant.version_id == rollout.version_id
            )
            ours = set(session.scalars(wanted))
            since = rollout.created_at
            until = self._now() if rollout.finished_at is None else rollout.finished_at + _LATE
            windows = session.execute(
                select(
                    TelemetryWindow.device,
                    TelemetryWindow.manifest,
                    TelemetryWindow.received_at,
                    TelemetryWindow.requests,
                    TelemetryWindow.errors + TelemetryWindow.non_finite,
                    TelemetryWindow.latency,
                )
                .where(
                    TelemetryWindow.slot == rollout.model,
                    TelemetryWindow.received_at >= since,
                    TelemetryWindow.received_at <= until,
                )
                .order_by(TelemetryWindow.received_at.desc())
                .limit(WINDOWS_MAX)
            ).all()
        step = _step(until - since)
        sides = {True: _Sum(), False: _Sum()}
        steps: defaultdict[int, dict[bool, _Sum]] = defaultdict(
            lambda: {True: _Sum(), False: _Sum()}
        )
        for device, manifest, at, *counted in windows:
            new = manifest in ours
            sides[new].add(device, *counted)
            steps[(at - since) // step][new].add(device, *counted)
        return ServiceComparison(
            since=since,
            until=until,
            step_s=step.total_seconds(),
            complete=len(windows) < WINDOWS_MAX,
            latency_edges_us=list(LATENCY_EDGES_US),
            new=sides[True].side(),
            others=sides[False].side(),
            points=[
                _point(since + number * step, found[True], found[False])
                for number, found in sorted(steps.items())
            ],
        )


def _step(whole: timedelta) -> timedelta:
    """Return how long one point of the chart is."""
    seconds = whole.total_seconds()
    steps = (one for one in _STEPS_S if seconds / one <= POINTS_MAX)
    return timedelta(seconds=next(steps, seconds / POINTS_MAX))


def _point(at: datetime, new: _Sum, others: _Sum) -> ServicePoint:
    return ServicePoint(
        at=at,
        new_requests=new.requests,
        new_errors=new.errors,
        new_p95_us=new.quantile(0.95),
        other_requests=others.requests,
        other_errors=others.errors,
        other_p95_us=others.quantile(0.95),
    )
