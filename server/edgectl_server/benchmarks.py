"""Benchmarks: a device is asked to measure variants, and what it says is kept.

::

    queued ──sent──► running ──all measured──► succeeded
       │                │
       └────────────────┴── no answer, offline, refused, nothing measured ──► failed

Rules:

1. A benchmark is a job that a device does: its row is the truth, and one is under way per device.
2. What is asked is signed as an order is, with the same keys and its own payload type; its number
   only grows for a device (`edgectl_server.device_requests`).
3. The request is not retained and sent once, after the bundles are on the broker: a device that
   does not take it within `BEGIN_WITHIN` has not heard it, or has refused it.
4. What a device says counts with the nonce of its request, once for each variant, and is kept as a
   measurement of its class, whatever has become of the job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_protocol import topics
from edgectl_protocol.messages import (
    CANDIDATES_MAX,
    BenchmarkReport,
    BenchmarkRequest,
    Candidate,
    DeviceEvent,
    Reason,
)
from edgectl_server.device_requests import ANSWER_WITHIN, BEGIN_WITHIN, next_request, send_queued
from edgectl_server.domain.variants import VariantFacts, fits
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.fleet import find_device
from edgectl_server.job_rows import end_job, job_info, new_job
from edgectl_server.jobs import JobFailed
from edgectl_server.measurements import (
    BENCHMARK,
    Measurements,
    benchmark_jobs,
    measurement_info,
)
from edgectl_server.order_answers import reported_of
from edgectl_server.ordering import Ordering, Publishes, variants_of
from edgectl_server.schemas import BenchmarkStart, JobInfo
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import BundleVariant, Device, Job, ModelVersion
from edgectl_server.version_rows import get_version

__all__ = ["Benchmarks"]

logger = logging.getLogger(__name__)

SILENT_MAX = timedelta(minutes=30)
"""Between two words of a device that is connected: a large model on a slow line."""
OFFLINE_MAX = timedelta(minutes=2)
"""Without a connection; after a restart the device itself says that it was interrupted."""
_MEASURED = "measured"


class Benchmarks:
    """Asks, and takes the answers. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        measurements: Measurements,
        ordering: Ordering,
        signer: OrderSigner,
        now: Callable[[], datetime],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what it needs; `wake` is called when there is something to send now."""
        self._database = database
        self._measurements = measurements
        self._ordering = ordering
        self._signer = signer
        self._now = now
        self._wake = wake

    # ------------------------------------------------------------ what people do

    def start(self, model: str, version: str, asked: BenchmarkStart, user: str) -> JobInfo:
        """Have a device measure variants of a version: a job begins.

        Raises:
            NotFound: ``version.unknown``, ``device.unknown``, ``variant.unknown``.
            Conflict: ``benchmark.not_ready``, ``benchmark.offline``, ``benchmark.running``.
            Refused: ``benchmark.unfit``: the device can run none of them.
        """
        with self._database.write() as session:
            row = _find_version(session, model, version)
            device = find_device(session, asked.device)
            _check_device(session, device)
            chosen = _choose(device, variants_of(session, row.id), asked.variants)
            job = new_job(
                BENCHMARK,
                {
                    "subject": {"model": model, "version": version, "device": device.id},
                    "version_id": row.id,
                    "device": device.id,
                    "manifests": [one.manifest for one in chosen],
                    "runs": asked.runs,
                    _MEASURED: {},
                },
                user,
                self._now(),
            )
            job.lease_until = self._now() + ANSWER_WITHIN
            job.progress = _progress("send", f"to {device.id}", 0, len(chosen))
            session.add(job)
            session.flush()
            info = job_info(job)
        self._wake()
        return info

    # ------------------------------------------------------------ in the background

    def send(self, link: Publishes) -> int:
        """Send what waits; the bundles are on the broker by now. Return how many.

        Raises:
            Unavailable: the broker takes nothing now.
        """
        with self._database.read() as session:
            waiting = [one.id for one in benchmark_jobs(session) if one.state == "queued"]

        def send(request: BenchmarkRequest) -> None:
            link.publish(topics.command(request.device), self._signer.sign(request))

        send_queued(self._database, waiting, self._request, send)
        return len(waiting)

    def _request(self, session: Session, job: Job) -> BenchmarkRequest | None:
        """Return what to send, and count it as sent; None where it cannot be asked any more."""
        now = self._now()
        device = session.get(Device, job.payload["device"], with_for_update=True)
        version = session.get(ModelVersion, job.payload["version_id"])
        if device is None or version is None or device.state != "enrolled":
            gone = "the device has left the fleet"
            end_job(job, "failed", now, error=JobFailed("benchmark.lost", gone))
            return None
        manifests = job.payload["manifests"]
        bundles = {
            one.manifest: one
            for one in session.scalars(
                select(BundleVariant).where(BundleVariant.manifest.in_(manifests))
            )
        }
        counter, nonce = next_request(device, now)
        job.payload = {**job.payload, "counter": counter, "nonce": nonce}
        job.state, job.started_at, job.attempts = "running", now, 1
        job.lease_until = now + ANSWER_WITHIN
        return BenchmarkRequest(
            device=device.id,
            job=job.id,
            counter=counter,
            nonce=nonce,
            issued_at=now,
            expires_at=now + BEGIN_WITHIN,
            model=version.model,
            version=version.version,
            candidates=tuple(
                Candidate(
                    variant=bundles[manifest].variant,
                    target=bundles[manifest].target,
                    manifest=manifest,
                )
                for manifest in manifests
            ),
            runs=job.payload["runs"],
            keys=self._ordering.sealed_keys(session, device, manifests),
        )

    def give_up(self) -> None:
        """End what nobody answers any more."""
        now = self._now()
        with self._database.read() as session:
            if not benchmark_jobs(session):
                return
        with self._database.write() as session:
            for job in benchmark_jobs(session):
                device = session.get(Device, job.payload["device"])
                error = _given_up(job, device, now)
                if error is not None:
                    end_job(job, "failed", now, error=error)
                    logger.info("job %s: %s", job.id, error.detail)

    # ------------------------------------------------------------ what devices say

    def take_event(self, session: Session, device: Device, event: DeviceEvent) -> None:
        """Keep what the trial of an update has measured, in the caller's transaction."""
        self._measurements.take_event(session, device, event)

    def take_report(
        self, session: Session, device: Device, report: BenchmarkReport
    ) -> Reason | None:
        """Take what came of a request, in the caller's transaction; say why it is not believed."""
        device.last_seen_at = self._now()
        job = session.get(Job, report.job, with_for_update=True)
        if job is None or job.kind != BENCHMARK or job.payload["device"] != device.id:
            detail = f"it speaks of a job {report.job} that is none of its own"
            return Reason(code="report.job", detail=detail)
        if report.nonce != job.payload.get("nonce"):
            detail = f"it speaks of job {job.id} with a nonce that we did not give it"
            return Reason(code="report.nonce", detail=detail)
        result = report.result
        if result is not None and result.manifest not in job.payload["manifests"]:
            detail = f"it has measured {result.manifest}, which job {job.id} did not ask for"
            return Reason(code="report.job", detail=detail)
        if result is not None and result.manifest not in job.payload[_MEASURED]:
            self._measurements.take_report(session, device, report)
        if job.state in {"queued", "running"}:
            self._advance(session, job, device, report)
        return None

    def _advance(self, session: Session, job: Job, device: Device, report: BenchmarkReport) -> None:
        now = self._now()
        measured = dict(job.payload[_MEASURED])
        total = len(job.payload["manifests"])
        message = "the device has begun"
        if report.result is not None and report.result.manifest not in measured:
            info = measurement_info(session, report, device, self._measurements.target(device))
            measured[report.result.manifest] = info.model_dump(mode="json")
            job.payload = {**job.payload, _MEASURED: measured}
            message = f"{info.variant}: {info.reason or _told(info.latency_p50_us)}"
        job.progress = _progress("measure", message, len(measured), total)
        job.lease_until = now + SILENT_MAX
        rows = list(measured.values())
        if report.reason is not None and len(measured) < total:
            error = JobFailed(
                report.reason.code,
                report.reason.detail,
                hint="try again when the device has nothing else to do",
                data={"measurements": rows},
            )
            end_job(job, "failed", now, error=error)
        elif len(measured) == total and all(one["verdict"] == "failed" for one in rows):
            error = JobFailed(
                "benchmark.failed",
                f"nothing could be measured: {rows[0]['reason']}"[:500],
                hint=f"`edgectl devices show {device.id}` says how the device fares",
                data={"measurements": rows},
            )
            end_job(job, "failed", now, error=error)
        elif len(measured) == total:
            result = {
                "device": device.id,
                "device_class": device.device_class,
                "measurements": rows,
            }
            end_job(job, "succeeded", now, result=result)


def _find_version(session: Session, model: str, version: str) -> ModelVersion:
    row = get_version(session, model, version)
    if row.state != "ready":
        raise Conflict(
            "benchmark.not_ready",
            f"{model}@{version} is {row.state}: no device would fetch it",
            hint=f"edgectl models show {model}@{version}",
            data={"state": row.state},
        )
    return row


def _check_device(session: Session, device: Device) -> None:
    if device.state != "enrolled" or not device.online:
        seen = "never" if device.last_seen_at is None else f"{device.last_seen_at:%Y-%m-%d %H:%M}"
        raise Conflict(
            "benchmark.offline",
            f"{device.id} is not connected; it was last heard {seen} (UTC)",
            hint="connect it, or name another one: `edgectl devices list --online`",
        )
    running = benchmark_jobs(session, device.id)
    if running:
        raise Conflict(
            "benchmark.running",
            f"job {running[0].id} is measured on {device.id} already",
            hint=f"edgectl jobs show {running[0].id} --watch",
            data={"job": running[0].id},
        )


def _choose(
    device: Device, variants: Sequence[VariantFacts], names: Sequence[str]
) -> list[VariantFacts]:
    """Return the variants to measure, in the pipeline's order."""
    known = {one.variant for one in variants}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise NotFound(
            "variant.unknown",
            f"there is no variant {unknown[0]} of this version",
            hint=f"it has: {', '.join(sorted(known))}",
        )
    reported = reported_of(device)
    capabilities = None if reported is None else reported.capabilities
    decrypts = device.encryption_key is not None
    usable = [
        one
        for one in sorted(variants, key=lambda one: (one.rank, one.variant))
        if (not names or one.variant in names)
        and capabilities is not None
        and fits(one, capabilities, decrypts=decrypts)
    ]
    if not usable:
        raise Refused(
            "benchmark.unfit",
            f"{device.id} can run none of them: no runtime, no room, or no key for what is"
            " encrypted",
            hint=f"`edgectl devices show {device.id} --json` says what it has",
        )
    return usable[:CANDIDATES_MAX]


def _given_up(job: Job, device: Device | None, now: datetime) -> JobFailed | None:
    name = job.payload["device"]
    data = {"measurements": list(job.payload[_MEASURED].values())}
    if device is None or device.state != "enrolled":
        return JobFailed("benchmark.lost", f"{name} has left the fleet", data=data)
    lease = job.lease_until or now
    begun = job.progress.get("stage") == "measure"
    heard = device.last_seen_at or job.created_at
    if begun and not device.online and now - heard > OFFLINE_MAX:
        return JobFailed(
            "benchmark.lost",
            f"{name} went offline while it measured",
            hint="try again when it is connected",
            data=data,
        )
    if now < lease:
        return None
    if begun:
        return JobFailed("benchmark.silent", f"{name} says nothing more of it", data=data)
    return JobFailed(
        "benchmark.unanswered",
        f"{name} has not taken the request within {BEGIN_WITHIN.seconds} s",
        hint=f"`edgectl devices security {name}` says whether it has refused it",
        data=data,
    )


def _progress(stage: str, message: str, done: int, total: int) -> dict[str, Any]:
    return {"stage": stage, "message": message[:500], "done": done, "total": total}


def _told(latency_us: float | None) -> str:
    return "measured" if latency_us is None else f"p50 {latency_us:.0f} µs"
