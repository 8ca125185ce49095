"""What variants need on devices: stored once, shown, and given to the choice of variants.

The trial of every update measures, and a benchmark does when somebody asks; both come signed by the
device. A measurement is kept with the class that its device had then. Figures are believed within
bounds, and a device counts once in its class, whatever it says how often: the median of the devices
decides (`edgectl_server.domain.variants`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from edgectl_protocol.messages import (
    BenchmarkReport,
    Capabilities,
    DeviceEvent,
    TrialReport,
)
from edgectl_protocol.update import UpdateState
from edgectl_server.domain.targets import Target, energy_uj
from edgectl_server.domain.variants import ClassFigures, Measured, class_figures
from edgectl_server.schemas import MeasurementInfo, Page
from edgectl_server.storage.database import Database
from edgectl_server.storage.inserts import insert_new
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import BundleVariant, Device, Job, Measurement
from edgectl_server.targets import Targets
from edgectl_server.version_rows import get_version

__all__ = ["BENCHMARK", "Measurements", "benchmark_jobs", "measurement_info"]

BENCHMARK = "benchmark"
"""The kind of job that a device does."""
PER_DEVICE_MAX = 10
"""Measurements of one manifest that are kept of a device, the newest."""
PER_MANIFEST_MAX = 1000
"""Measurements of one manifest that are kept."""
_READ_MAX = 400
"""Measurements that one choice looks at, the newest of each manifest."""
_MICROSECONDS_MAX = 3.6e9
_BYTES_MAX = 2**50
_COUNT_MAX = 2**31
_SORT = {"at": Measurement.received_at, "latency_p50_us": Measurement.latency_p50_us}

_VERDICTS = {
    UpdateState.ACTIVATING: "ok",
    UpdateState.SHADOWING: "ok",
    UpdateState.WAITING: "ok",
    UpdateState.REJECTED: "rejected",
}
"""What the state that follows a trial says about it."""

Source = Literal["trial", "benchmark"]


class Measurements:
    """Stores and reads. Its methods may be called from any thread."""

    def __init__(
        self, *, database: Database, targets: Targets, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._targets = targets
        self._now = now

    # ------------------------------------------------------------ what devices say

    def take_event(self, session: Session, device: Device, event: DeviceEvent) -> None:
        """Store what the trial of an update measured, in the caller's transaction."""
        if event.before is not UpdateState.TRIAL:
            return  # later transitions of the update repeat it
        verdict = _VERDICTS.get(event.after)
        if verdict is None:
            return
        reason = event.reason.code if event.reason is not None and verdict == "rejected" else ""
        self._add(
            session,
            device,
            boot=event.boot,
            seq=event.seq,
            at=event.at,
            manifest=event.manifest,
            source="trial",
            verdict=verdict,
            reason=reason,
            trial=event.trial,
        )

    def take_report(self, session: Session, device: Device, report: BenchmarkReport) -> None:
        """Store what a benchmark measured of one variant, in the caller's transaction."""
        result = report.result
        if result is None or result.verdict == "failed":
            return  # says nothing about the variant
        self._add(
            session,
            device,
            boot=report.boot,
            seq=report.seq,
            at=report.at,
            manifest=result.manifest,
            source="benchmark",
            verdict=result.verdict,
            reason="" if result.reason is None else result.reason.code,
            trial=result.trial,
        )

    def _add(
        self,
        session: Session,
        device: Device,
        *,
        boot: int,
        seq: int,
        at: datetime,
        manifest: str,
        source: Source,
        verdict: str,
        reason: str,
        trial: TrialReport | None,
    ) -> None:
        bundle = session.scalars(
            select(BundleVariant).where(BundleVariant.manifest == manifest).limit(1)
        ).one_or_none()
        if bundle is None:
            return  # of a version that is not ours, or not any more
        capabilities = _capabilities(device)
        row = {
            "device": device.id,
            "boot": boot,
            "seq": seq,
            "version_id": bundle.version_id,
            "variant": bundle.variant,
            "manifest": manifest,
            "device_class": device.device_class,
            "source": source,
            "verdict": verdict,
            "reason": reason,
            "runtime": _runtime(bundle, capabilities),
            "cpu_model": "" if capabilities is None else capabilities.cpu_model,
            "at": at,
            "received_at": self._now(),
            **figures_of(trial),
        }
        insert_new(session, Measurement, [row])
        newest = (
            select(Measurement.id)
            .where(Measurement.device == device.id, Measurement.manifest == manifest)
            .order_by(Measurement.id.desc())
            .limit(PER_DEVICE_MAX)
        )
        session.execute(
            delete(Measurement)
            .where(
                Measurement.device == device.id,
                Measurement.manifest == manifest,
                Measurement.id.not_in(newest),
            )
            .execution_options(synchronize_session=False)
        )

    # ------------------------------------------------------------ what is asked

    def target(self, device: Device) -> Target | None:
        """Return the class of a device."""
        return self._targets.get(device.device_class)

    def of_class(
        self, session: Session, device_class: str, manifests: Collection[str]
    ) -> dict[str, ClassFigures]:
        """Return what devices of a class have measured of these manifests, by the newest of it."""
        if not device_class:
            return {}
        found: list[Measured] = []
        for manifest in manifests:
            rows = session.scalars(
                select(Measurement)
                .where(Measurement.manifest == manifest, Measurement.device_class == device_class)
                .order_by(Measurement.id.desc())
                .limit(_READ_MAX)
            )
            found += [_measured(row) for row in rows]
        return class_figures(found, device_class)

    def page(
        self, model: str, version: str, paging: PageQuery, *, device_class: str | None = None
    ) -> Page[MeasurementInfo]:
        """Return one page of the measurements of a version, newest first.

        Raises:
            NotFound: ``version.unknown``.
        """
        columns = order(paging.sort, _SORT, default="-at", last=Measurement.id)
        with self._database.read() as session:
            row = get_version(session, model, version)
            wanted = select(Measurement).where(Measurement.version_id == row.id).order_by(*columns)
            if device_class is not None:
                wanted = wanted.where(Measurement.device_class == device_class)
            if paging.q:
                wanted = wanted.where(match(paging.q, (Measurement.variant, Measurement.device)))
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[self._info(one) for one in rows], total=total)

    def _info(self, row: Measurement) -> MeasurementInfo:
        fields = {
            name: getattr(row, name) for name in MeasurementInfo.model_fields if name != "energy_uj"
        }
        energy = energy_of(fields, self._targets.get(row.device_class))
        return MeasurementInfo.model_validate({**fields, "energy_uj": energy})

    # ------------------------------------------------------------ in the background

    def delete_old(self) -> None:
        """Delete what is beyond the limit of a manifest, the oldest."""
        with self._database.write() as session:
            crowded = session.scalars(
                select(Measurement.manifest)
                .group_by(Measurement.manifest)
                .having(func.count() > PER_MANIFEST_MAX)
            ).all()
            for manifest in crowded:
                oldest = session.scalar(
                    select(Measurement.id)
                    .where(Measurement.manifest == manifest)
                    .order_by(Measurement.id.desc())
                    .offset(PER_MANIFEST_MAX - 1)
                    .limit(1)
                )
                session.execute(
                    delete(Measurement)
                    .where(Measurement.manifest == manifest, Measurement.id < oldest)
                    .execution_options(synchronize_session=False)
                )


def benchmark_jobs(session: Session, device: str | None = None) -> Sequence[Job]:
    """Return the benchmarks that are not at their end, of one device or of all."""
    found = session.scalars(
        select(Job)
        .where(Job.kind == BENCHMARK, Job.state.in_(["queued", "running"]))
        .order_by(Job.created_at, Job.id)
    ).all()
    return [one for one in found if device is None or one.payload["device"] == device]


def measurement_info(
    session: Session, report: BenchmarkReport, device: Device, target: Target | None
) -> MeasurementInfo:
    """Return the result of a report as it is shown."""
    result = report.result
    assert result is not None
    capabilities = _capabilities(device)
    bundle = session.scalars(
        select(BundleVariant).where(BundleVariant.manifest == result.manifest).limit(1)
    ).one_or_none()
    reason = result.reason
    figures = figures_of(result.trial)
    return MeasurementInfo(
        variant=result.variant,
        manifest=result.manifest,
        device=device.id,
        device_class=device.device_class,
        source="benchmark",
        verdict=result.verdict,
        reason="" if reason is None else f"{reason.code}: {reason.detail}",
        at=report.at,
        energy_uj=energy_of(figures, target),
        runtime=_runtime(bundle, capabilities),
        cpu_model="" if capabilities is None else capabilities.cpu_model,
        **figures,
    )


def figures_of(trial: TrialReport | None) -> dict[str, Any]:
    """Return the figures of a report that can be true; None for those that cannot."""
    if trial is None:
        return {}
    return {
        "load_ms": _within(trial.load_ms, _MICROSECONDS_MAX / 1000),
        "latency_p50_us": _within(trial.latency_p50_us, _MICROSECONDS_MAX),
        "latency_p95_us": _within(trial.latency_p95_us, _MICROSECONDS_MAX),
        "rss_bytes": _within(trial.rss_bytes, _BYTES_MAX),
        "golden_passed": min(trial.golden_passed, _COUNT_MAX),
        "golden_total": min(trial.golden_total, _COUNT_MAX),
        "max_abs_diff": trial.max_abs_diff if 0 <= trial.max_abs_diff < math.inf else None,
        "runs": _within(trial.runs, _COUNT_MAX),
        "threads": _within(trial.threads, _COUNT_MAX),
    }


def _within(value: float, limit: float) -> float | None:
    return value if 0 < value < limit else None


def energy_of(figures: dict[str, Any], target: Target | None) -> float | None:
    """Return the energy proxy of a measurement in microjoules; None where it has none."""
    latency, threads = figures.get("latency_p50_us"), figures.get("threads")
    if latency is None or target is None:
        return None
    return energy_uj(latency, cores=threads or 1, watts_per_core=target.watts_per_core)


def _measured(row: Measurement) -> Measured:
    return Measured(
        device_class=row.device_class,
        device=row.device,
        manifest=row.manifest,
        latency_p50_us=row.latency_p50_us,
        latency_p95_us=row.latency_p95_us,
        load_ms=row.load_ms,
        rss_bytes=row.rss_bytes,
        threads=row.threads or 1,
        refused=row.verdict == "rejected",
    )


def _capabilities(device: Device) -> Capabilities | None:
    reported = device.reported.get("capabilities") if device.reported else None
    if reported is None:
        return None
    return msgspec.convert(reported, Capabilities)


def _runtime(bundle: BundleVariant | None, capabilities: Capabilities | None) -> str:
    """Name what the device runs the variant with."""
    name = "onnxruntime" if bundle is None else bundle.trial.get("runtime", "onnxruntime")
    version = None if capabilities is None else capabilities.runtimes.get(name)
    return "" if version is None else f"{name} {version}"[:64]
