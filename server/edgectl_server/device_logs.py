"""Logs of a device: an operator asks, the device offers what it has, and the upload ends the job.

::

    queued ──sent──► running ──upload complete──► succeeded
       │                │
       └────────────────┴── no answer, offline, upload failed ──► failed

Rules: the job's row is the truth, and one is under way per device. The request is signed and
numbered as every request, not retained, and sent once. An offer is welcome when it has the job's
nonce and is the first for it: an operator's request brings one upload, whatever a device offers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_protocol import topics
from edgectl_protocol.messages import Reason
from edgectl_protocol.uploads import LogRequest, UploadOffer
from edgectl_server.device_requests import ANSWER_WITHIN, BEGIN_WITHIN, next_request, send_queued
from edgectl_server.device_uploads import AWAY_MAX, Publishes
from edgectl_server.errors import Conflict
from edgectl_server.fleet import find_device
from edgectl_server.job_rows import end_job, job_info, new_job
from edgectl_server.jobs import JobFailed
from edgectl_server.schemas import JobInfo
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, DeviceUpload, Job
from edgectl_server.upload_owners import Examined

__all__ = ["LOGS", "DeviceLogs"]

logger = logging.getLogger(__name__)

LOGS = "logs"
"""The kind of job, and of upload."""
UPLOAD_WITHIN = AWAY_MAX + timedelta(minutes=10)
"""Between two words of the upload, which has its own limits."""
_ACTIVE = ("queued", "running")


class DeviceLogs:
    """Asks, and owns the uploads that answer. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        signer: OrderSigner,
        now: Callable[[], datetime],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what it needs; `wake` is called when there is something to send now."""
        self._database = database
        self._signer = signer
        self._now = now
        self._wake = wake

    def start(self, name: str, since_s: int, user: str) -> JobInfo:
        """Have a device upload its logs: a job begins.

        Raises:
            NotFound: ``device.unknown``.
            Conflict: ``logs.offline``, ``logs.running``.
        """
        with self._database.write() as session:
            device = find_device(session, name)
            _check_device(session, device)
            payload = {"subject": {"device": device.id}, "device": device.id, "since_s": since_s}
            job = new_job(LOGS, payload, user, self._now())
            job.lease_until = self._now() + ANSWER_WITHIN
            job.progress = _progress("send", f"to {device.id}")
            session.add(job)
            session.flush()
            info = job_info(job)
        self._wake()
        return info

    # ------------------------------------------------------------ in the background

    def tick(self, link: Publishes) -> None:
        """Send what waits, and end what nobody answers any more.

        Raises:
            Unavailable: the broker takes nothing now.
        """
        self._give_up()
        if not link.connected:
            return
        with self._database.read() as session:
            waiting = [job.id for job in _jobs(session) if job.state == "queued"]

        def send(request: LogRequest) -> None:
            link.publish(topics.command(request.device), self._signer.sign(request))

        send_queued(self._database, waiting, self._request, send)

    def _request(self, session: Session, job: Job) -> LogRequest | None:
        """Return what to send, and count it as sent; None where it cannot be asked any more."""
        now = self._now()
        device = session.get(Device, job.payload["device"], with_for_update=True)
        if device is None or device.state != "enrolled":
            gone = JobFailed("logs.lost", "the device has left the fleet")
            end_job(job, "failed", now, error=gone)
            return None
        counter, nonce = next_request(device, now)
        job.payload = {**job.payload, "nonce": nonce}
        job.state, job.started_at, job.attempts = "running", now, 1
        job.lease_until = now + ANSWER_WITHIN
        return LogRequest(
            device=device.id,
            job=job.id,
            counter=counter,
            nonce=nonce,
            issued_at=now,
            expires_at=now + BEGIN_WITHIN,
            since_s=job.payload["since_s"],
        )

    def _give_up(self) -> None:
        now = self._now()
        with self._database.read() as session:
            if not any(_is_over(job, now) for job in _jobs(session)):
                return
        with self._database.write() as session:
            for job in _jobs(session):
                if _is_over(job, now):
                    error = _given_up(job)
                    end_job(job, "failed", now, error=error)
                    logger.info("job %s: %s", job.id, error.detail)

    # ------------------------------------------------------------ as the owner of uploads

    def admit(self, session: Session, device: str, offer: UploadOffer) -> Reason | None:
        """Say why an offer is not welcome, or None; see `edgectl_server.device_uploads.Owner`."""
        request = offer.request
        job = None if request is None else session.get(Job, request.job, with_for_update=True)
        if (
            request is None
            or job is None
            or job.kind != LOGS
            or job.state not in _ACTIVE
            or job.payload["device"] != device
            or job.payload.get("nonce") != request.nonce
            or job.payload.get("upload", offer.upload) != offer.upload
        ):
            detail = f"{device} offers logs for which nobody asks, or nobody asks any more"
            return Reason(code="upload.unasked", detail=detail)
        job.payload = {**job.payload, "upload": offer.upload}
        return None

    def examine(self, upload: DeviceUpload, path: Path) -> Examined:
        """Look into nothing: who reads the lines does, within bounds."""
        del upload, path
        return Examined()

    def moved(self, session: Session, upload: DeviceUpload, done: int, total: int) -> None:
        """Show how far an upload is."""
        job = session.get(Job, upload.job, with_for_update=True)
        if job is not None and job.state in _ACTIVE:
            job.progress = _progress("upload", f"{upload.length} bytes", done, total)
            job.lease_until = self._now() + UPLOAD_WITHIN

    def ended(self, session: Session, upload: DeviceUpload) -> None:
        """End the job with its upload."""
        job = session.get(Job, upload.job, with_for_update=True)
        if job is None or job.state not in _ACTIVE:
            return
        if upload.reason is None:
            result = {
                "device": upload.device,
                "upload": upload.digest,
                "bytes": upload.length,
                "media_type": upload.media_type,
            }
            end_job(job, "succeeded", self._now(), result=result)
            return
        error = JobFailed(
            upload.reason["code"],
            upload.reason["detail"],
            hint=f"edgectl devices logs {upload.device} asks again",
        )
        end_job(job, "failed", self._now(), error=error)


def _jobs(session: Session) -> Sequence[Job]:
    """Return the requests that are not at their end."""
    wanted = select(Job).where(Job.kind == LOGS, Job.state.in_(_ACTIVE))
    return session.scalars(wanted.order_by(Job.created_at, Job.id)).all()


def _check_device(session: Session, device: Device) -> None:
    if device.state != "enrolled" or not device.online:
        seen = "never" if device.last_seen_at is None else f"{device.last_seen_at:%Y-%m-%d %H:%M}"
        raise Conflict(
            "logs.offline",
            f"{device.id} is not connected; it was last heard {seen} (UTC)",
            hint="ask when it is connected; on the device: journalctl -u edgectl-agent",
        )
    running = [job for job in _jobs(session) if job.payload["device"] == device.id]
    if running:
        raise Conflict(
            "logs.running",
            f"job {running[0].id} brings the logs of {device.id} already",
            hint=f"edgectl jobs show {running[0].id} --watch",
            data={"job": running[0].id},
        )


def _is_over(job: Job, now: datetime) -> bool:
    return job.lease_until is not None and job.lease_until <= now


def _given_up(job: Job) -> JobFailed:
    name = job.payload["device"]
    if job.progress.get("stage") == "upload":
        return JobFailed(
            "logs.silent",
            f"{name} sends nothing more of its logs",
            hint=f"`edgectl devices show {name}` says whether it is connected",
        )
    return JobFailed(
        "logs.unanswered",
        f"{name} has not offered its logs within {BEGIN_WITHIN.seconds} s",
        hint=f"`edgectl devices security {name}` says whether it has refused the request; an agent"
        " of an older version, or with a full disk, cannot answer it",
    )


def _progress(stage: str, message: str, done: int = 0, total: int = 0) -> dict[str, object]:
    return {"stage": stage, "message": message, "done": done, "total": total}
