"""Traces of pushes and rollouts to an OpenTelemetry collector: the extra ``otel``.

What has ended is read from the database and sent by OTLP over HTTP, by a thread of its own: a
collector that is away holds nothing up, and is sent later what it has missed. How far that is lies
in a file; without it, it begins now. Several servers send the same spans under the same ids.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

import edgectl_protocol
from edgectl_server.domain.traces import (
    Happening,
    PushFacts,
    RolloutFacts,
    Span,
    push_spans,
    rollout_spans,
)
from edgectl_server.errors import Refused
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import write_durably
from edgectl_server.storage.tables import (
    Job,
    ModelVersion,
    Rollout,
    RolloutDevice,
    RolloutEvent,
)

__all__ = ["Tracing"]

logger = logging.getLogger(__name__)

_LOOK_S = 10.0
_ATTEMPT_S = 5
_AT_ONCE = 50
_EVENTS_MAX = 1000
_SETTLED = timedelta(seconds=2)
"""What has ended so recently may not be committed yet, beside something that ended later."""


class Tracing:
    """Sends, from `start` to `close`."""

    def __init__(
        self, *, database: Database, endpoint: str, cursor: Path, now: Callable[[], datetime]
    ) -> None:
        """Prepare.

        Args:
            database: of the rows.
            endpoint: such as ``http://127.0.0.1:4318/v1/traces``.
            cursor: file that says up to when has been sent.
            now: the clock.

        Raises:
            Refused: ``tracing.missing``: the extra is not installed.
        """
        self._database = database
        self._exporter, self._spans = _make_exporter(endpoint)
        self._cursor = cursor
        self._now = now
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop. Idempotent."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(2 * _ATTEMPT_S)

    def send(self) -> int:
        """Send what has ended since the last time; return how many spans have arrived."""
        since = self._since()
        with self._database.read() as session:
            found, until = _ended(session, since, self._now() - _SETTLED)
        if not found:
            return 0
        from opentelemetry.sdk.trace.export import SpanExportResult

        if self._exporter.export(self._spans(found)) is not SpanExportResult.SUCCESS:
            return 0
        write_durably(self._cursor, until.isoformat().encode(), mode=0o600)
        return len(found)

    def _since(self) -> datetime:
        with contextlib.suppress(OSError, ValueError):
            return datetime.fromisoformat(self._cursor.read_text())
        now = self._now()
        write_durably(self._cursor, now.isoformat().encode(), mode=0o600)
        return now

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                while self.send() and not self._closing.is_set():
                    pass
            except Exception:  # the next turn tries again
                logger.exception("traces cannot be sent")
            self._closing.wait(_LOOK_S)


def _ended(session: Session, since: datetime, until: datetime) -> tuple[list[Span], datetime]:
    """Return the spans of what has ended, and up to when that is all."""
    jobs = session.scalars(
        select(Job)
        .where(Job.kind == "push", Job.finished_at > since, Job.finished_at <= until)
        .order_by(Job.finished_at)
        .limit(_AT_ONCE)
    ).all()
    rollouts = session.execute(
        select(Rollout, ModelVersion.version)
        .join(ModelVersion, ModelVersion.id == Rollout.version_id)
        .where(Rollout.finished_at > since, Rollout.finished_at <= until)
        .order_by(Rollout.finished_at)
        .limit(_AT_ONCE)
    ).all()
    ends = [job.finished_at for job in jobs] + [rollout.finished_at for rollout, _ in rollouts]
    if len(jobs) == _AT_ONCE or len(rollouts) == _AT_ONCE:  # the rest is sent next
        full = [rows for rows in (jobs, [one for one, _ in rollouts]) if len(rows) == _AT_ONCE]
        until = min(end for rows in full if (end := rows[-1].finished_at) is not None)
    spans: list[Span] = []
    for job in jobs:
        if job.finished_at is not None and job.finished_at <= until:
            spans += push_spans(_push(job))
    for rollout, version in rollouts:
        if rollout.finished_at is not None and rollout.finished_at <= until:
            spans += rollout_spans(*_rollout(session, rollout, version))
    return spans, until if ends else since


def _push(job: Job) -> PushFacts:
    assert job.finished_at is not None
    error, subject = job.error or {}, job.payload.get("subject", {})
    failed = f"{error.get('code', '')}: {error.get('detail', '')}" if error else ""
    return PushFacts(
        job=job.id,
        model=str(subject.get("model", "")),
        version=str(subject.get("version", "")),
        created=job.created_at,
        started=job.started_at,
        finished=job.finished_at,
        attempts=job.attempts,
        failed=failed or ("cancelled" if job.state == "cancelled" else ""),
    )


def _rollout(
    session: Session, rollout: Rollout, version: str
) -> tuple[RolloutFacts, Sequence[Happening]]:
    assert rollout.finished_at is not None
    devices = session.execute(
        select(RolloutDevice.state, func.count())
        .where(RolloutDevice.rollout == rollout.id)
        .group_by(RolloutDevice.state)
    ).all()
    events = session.scalars(
        select(RolloutEvent)
        .where(
            RolloutEvent.rollout == rollout.id,
            ~RolloutEvent.kind.startswith("device", autoescape=True),
        )
        .order_by(RolloutEvent.revision)
        .limit(_EVENTS_MAX)
    )
    phases = rollout.policy.get("phases") or []
    facts = RolloutFacts(
        rollout=rollout.id,
        model=rollout.model,
        version=version,
        state=rollout.state,
        devices={str(state): int(count) for state, count in devices},
        created=rollout.created_at,
        finished=rollout.finished_at,
        first_phase=str(phases[0].get("name", "")) if phases else "",
    )
    history = [Happening(one.at, one.kind, str(one.data.get("phase", ""))) for one in events]
    return facts, history


def _make_exporter(endpoint: str) -> tuple[Any, Callable[[Sequence[Span]], list[Any]]]:
    """Return what sends, and what makes of our spans those that it takes."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
    except ImportError as error:
        raise Refused(
            "tracing.missing",
            "otel_endpoint is set, and the packages for it are not installed",
            hint="pip install 'edgectl[server,otel]'",
        ) from error
    version = edgectl_protocol.__version__
    resource = Resource({"service.name": "edgectl", "service.version": version})

    def context(trace: int, span: int) -> SpanContext:
        return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(1))

    def convert(span: Span) -> ReadableSpan:
        status = Status(StatusCode.ERROR, span.failed) if span.failed else Status(StatusCode.OK)
        return ReadableSpan(
            name=span.name,
            context=context(span.trace, span.id),
            parent=None if span.parent is None else context(span.trace, span.parent),
            resource=resource,
            attributes=dict(span.attributes),
            events=[Event(name, timestamp=_nanoseconds(at)) for at, name in span.events],
            kind=SpanKind.INTERNAL,
            status=status,
            start_time=_nanoseconds(span.start),
            end_time=_nanoseconds(span.end),
        )

    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_ATTEMPT_S)
    return exporter, lambda spans: [convert(span) for span in spans]


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000
